"""``kinwatch-gateway``: run the gateway, look into its store, build model artifacts."""

# Longer than most modules for the number of commands.

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from contract.exit_codes import ExitCode
from gateway import log
from gateway.config import GatewayConfig, load, render
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.conversion.commands import Outcome

DEFAULT_CONFIG = Path("/etc/kinwatch-gateway/gateway.toml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except GatewayError as error:
        print(f"kinwatch-gateway: {error}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return int(ExitCode.OK)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kinwatch-gateway", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    run = _command(commands, "run", "serve until SIGTERM", _run)
    run.add_argument("--print-config", action="store_true", help="print the effective configuration and leave")
    _reading(_command(commands, "status", "rounds, devices, refusals", _status))
    families = _reading(_command(commands, "families", "families, and who belongs where and why", _families))
    families.add_argument("--why", metavar="DEVICE", help="all decisions on one device, oldest first")
    _reading(_command(commands, "models", "models and their lineage", _models))
    _reading(_command(commands, "reports", "evaluation reports of the devices", _reports))
    alerts = _reading(_command(commands, "alerts", "the newest alerts, and the verdicts on them", _alerts))
    alerts.add_argument("--device", help="of one device")
    alerts.add_argument("--limit", type=int, default=50, help="how many (default: %(default)s)")
    verdict = _command(commands, "verdict", "confirm or dismiss an alert; its device learns from it", _verdict)
    verdict.add_argument("device")
    verdict.add_argument("flow", type=int, help="flow id of the alert, see alerts")
    verdict.add_argument("judgement", choices=("confirm", "dismiss"))
    verdict.add_argument("--label", help="class of a confirmed attack (default: the one that the alert names)")
    keys = _command(commands, "keys", "make the release keys if missing; print the public files", _keys)
    keys.add_argument("--json", action="store_true", help="print JSON")
    config = _command(commands, "config", "check the configuration", _config)
    config.add_argument("--print-config", action="store_true", help="print the effective configuration")
    epoch = "after a restored backup or a wrong clock: devices take what this gateway assigns from its next start on"
    _command(commands, "new-epoch", epoch, _new_epoch)
    _add_model(commands)
    _add_wire(commands)
    return parser


def _add_wire(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    broker = commands.add_parser("broker-config", help="write Mosquitto's configuration and access file")
    broker.add_argument("--version", choices=("2.0", "2.1"), default="2.0", help="Mosquitto's (default: 2.0)")
    broker.add_argument("--out", type=Path, default=Path(), help="directory to write to (default: here)")
    broker.add_argument("--directory", default="/etc/mosquitto/kinwatch", help="where the broker will find them")
    broker.add_argument("--port", type=int, default=8883)
    broker.add_argument("--harness", action="append", default=[], metavar="USER", help="may give run commands")
    broker.add_argument("--reader", action="append", default=[], metavar="USER", help="may read everything")
    broker.set_defaults(command=_broker_config)
    schemas = commands.add_parser("schema", help="print or write the JSON Schemas of the messages")
    schemas.add_argument("--out", type=Path, help="directory for one file a message")
    schemas.set_defaults(command=_schema)
    pki = commands.add_parser("pki", help="certificate authority of the broker")
    verbs = pki.add_subparsers(required=True, metavar="verb", dest="verb")
    init = _command(verbs, "init", "make the authority, and certificates for broker and gateway", _pki)
    init.add_argument("--broker-name", action="append", default=[], metavar="NAME", help="host name or address")
    issue = _command(verbs, "issue", "sign the request of a device", _pki)
    issue.add_argument("device")
    issue.add_argument("--csr", type=Path, required=True)
    issue.add_argument("--out", type=Path, help="file to write (default: standard output)")
    issue.add_argument("--days", type=float, default=0.0, help="lifetime (default: 397)")
    revoke = _command(verbs, "revoke", "put the certificates of a name on the revocation list", _pki)
    revoke.add_argument("name", help="device id or serial number")
    revoke.add_argument(
        "--reload",
        nargs="?",
        const="systemctl reload mosquitto",
        metavar="COMMAND",
        help="make the broker read the list, then drop the device's connection (default command: %(const)s)",
    )
    revoke.add_argument("--broker", metavar="HOST:PORT", default="localhost:8883", help="default: %(default)s")
    _command(verbs, "rotate", "new keys and certificates for broker and gateway", _pki)
    _reading(_command(verbs, "list", "certificates and their state", _pki))
    join = _command(commands, "join-code", "let a device join once", _join_code)
    join.add_argument("device")
    join.add_argument("--ttl", default="1h", help="how long it is good, such as 30m, 12h, 2d (default: 1h)")
    desk = _command(commands, "enrol-desk", "hand out certificates for join codes until SIGTERM", _enrol_desk)
    desk.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS")
    desk.add_argument("--port", type=int, default=8884)


def _add_model(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    model = commands.add_parser("model", help="build, inspect, verify .tflite artifacts")
    verbs = model.add_subparsers(required=True, metavar="verb", dest="verb")
    build = verbs.add_parser("build", help="build the artifact of a model spec (needs TensorFlow)")
    build.add_argument("--out", type=Path, default=Path(), help="directory to write to (default: here)")
    build.add_argument(
        "--model", choices=("two-head", "classifier", "autoencoder"), default="two-head", help="a built-in spec"
    )
    build.add_argument("--spec", type=Path, help="model spec as JSON, instead of a built-in one")
    build.add_argument("--python", help="interpreter that has TensorFlow (default: this one)")
    build.add_argument("--int8", action="store_true", help="export one release for scoring only, quantised")
    build.add_argument(
        "--weights", metavar="FILE|MODEL", help="with --int8: weights, or a model of the store such as fallback"
    )
    build.add_argument(
        "--representative",
        metavar="FILE",
        default="synthetic",
        help="with --int8: rows under the transform",
    )
    build.add_argument("--config", type=Path, help="with --int8: the gateway whose store holds models and signatures")
    verbs.add_parser("inspect", help="describe an artifact").add_argument("tflite", type=Path)
    verify = verbs.add_parser("verify", help="run the gate on an artifact")
    verify.add_argument("tflite", type=Path)
    verify.add_argument("--weights", type=Path, help="of the release in an int8 export, to compare with")
    model.set_defaults(command=_model)


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    command: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="TOML file (default: %(default)s)")
    parser.set_defaults(command=command)
    return parser


def _reading(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    config = load(arguments.config)
    if arguments.print_config:
        return _print_config(config)
    from gateway.service import Service

    log.configure()
    service = Service(config)
    service.stop_on_signals()
    service.run()
    return int(ExitCode.OK)


def _config(arguments: argparse.Namespace) -> int:
    config = load(arguments.config)
    if arguments.print_config:
        return _print_config(config)
    print(f"{arguments.config}: fine")
    return int(ExitCode.OK)


def _print_config(config: GatewayConfig) -> int:
    print(render(config), end="")
    return int(ExitCode.OK)


def _keys(arguments: argparse.Namespace) -> int:
    from gateway import views
    from gateway.signing import make_missing_keys

    paths = make_missing_keys(load(arguments.config).signing.dir)
    views.show({"keys": [str(path) for path in paths]}, "\n".join(map(str, paths)), as_json=arguments.json)
    return int(ExitCode.OK)


def _new_epoch(arguments: argparse.Namespace) -> int:
    import time

    from gateway.store import Store

    store = Store(load(arguments.config).store.dir)
    try:
        print(f"epoch {store.epoch.renew(now_s=time.time())} from the next start on; restart a gateway that runs now")
    finally:
        store.close()
    return int(ExitCode.OK)


def _status(arguments: argparse.Namespace) -> int:
    return _view(arguments, "status")


def _families(arguments: argparse.Namespace) -> int:
    return _view(arguments, "families")


def _models(arguments: argparse.Namespace) -> int:
    return _view(arguments, "models")


def _reports(arguments: argparse.Namespace) -> int:
    return _view(arguments, "reports")


def _alerts(arguments: argparse.Namespace) -> int:
    from gateway import views
    from gateway.store import Store

    store = Store(load(arguments.config).store.dir, read_only=True)
    try:
        data = views.alerts(store, arguments.device, max(1, arguments.limit))
    finally:
        store.close()
    views.show(data, views.alerts_text(data), as_json=arguments.json)
    return int(ExitCode.OK)


def _verdict(arguments: argparse.Namespace) -> int:
    from gateway.verdicts import Statement, give_verdict

    statement = Statement(arguments.device, arguments.flow, arguments.judgement, arguments.label)
    verdict = give_verdict(load(arguments.config).store.dir, statement)
    print(f"flow {verdict.flow_id} of {verdict.device_id} is {verdict.label}; the gateway tells it when connected")
    return int(ExitCode.OK)


def _view(arguments: argparse.Namespace, name: str) -> int:
    """Print one view of the store, read only, so that it works beside a running gateway."""
    from gateway import views
    from gateway.store import Store

    config = load(arguments.config)
    store = Store(config.store.dir, read_only=True)
    try:
        why: str | None = getattr(arguments, "why", None)
        if why is not None:
            data = views.why(store, why)
        else:
            data = views.status(store, config) if name == "status" else views.DATA[name](store)
        text = views.WHY if why is not None else views.TEXT[name]
        views.show(data, text(data), as_json=arguments.json)
    finally:
        store.close()
    return int(ExitCode.OK)


def _model(arguments: argparse.Namespace) -> int:
    from gateway.conversion import commands

    match arguments.verb:
        case "build" if arguments.int8:
            outcome = _export(arguments)
        case "build":
            outcome = commands.build(
                arguments.out, spec_file=arguments.spec, name=arguments.model, python=arguments.python
            )
        case "inspect":
            outcome = commands.inspect(arguments.tflite)
        case _:
            outcome = commands.verify(arguments.tflite, weights=arguments.weights)
    print(outcome.text, file=sys.stdout if outcome.code == ExitCode.OK else sys.stderr)
    return int(outcome.code)


def _export(arguments: argparse.Namespace) -> "Outcome":
    from gateway.conversion import commands

    if arguments.weights is None:
        return commands.Outcome(ExitCode.USAGE, "kinwatch-gateway: --int8 needs --weights: a file, or a stored model")
    store_dir = load(arguments.config).store.dir if arguments.config else None
    request = commands.ExportRequest(arguments.weights, arguments.representative, store_dir)
    return commands.export(
        arguments.out, request, spec_file=arguments.spec, name=arguments.model, python=arguments.python
    )


def _broker_config(arguments: argparse.Namespace) -> int:
    from contract.acl import render_acl
    from gateway.broker_files import render_config
    from gateway.errors import ConfigError

    files = {
        "mosquitto.conf": render_config(arguments.version, directory=arguments.directory, port=arguments.port),
        "acl": render_acl(harnesses=arguments.harness, readers=arguments.reader),
    }
    return _write_files(arguments.out, files, ConfigError)


def _schema(arguments: argparse.Namespace) -> int:
    import json

    from contract.document import messages, schema
    from gateway.errors import ConfigError

    if arguments.out is None:
        print(json.dumps({m.__name__: schema(m) for m in messages()}, indent=1, sort_keys=True))
        return int(ExitCode.OK)
    files = {f"{m.__name__}.json": json.dumps(schema(m), indent=1, sort_keys=True) + "\n" for m in messages()}
    return _write_files(arguments.out, files, ConfigError)


def _write_files(directory: Path, files: dict[str, str], error_type: type[GatewayError]) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise error_type(f"{directory}: cannot be written: {error.strerror}") from None
    print("\n".join(str(directory / name) for name in files))
    return int(ExitCode.OK)


def _pki(arguments: argparse.Namespace) -> int:
    from gateway import views
    from gateway.pki import commands

    directory = load(arguments.config).pki.dir
    match arguments.verb:
        case "init":
            print(commands.init(directory, arguments.broker_name))
        case "issue":
            print(commands.issue(directory, arguments.device, arguments.csr, arguments.out, arguments.days))
        case "revoke":
            print(commands.revoke(directory, arguments.name, broker=arguments.broker, reload=arguments.reload))
        case "rotate":
            print(commands.rotate(directory))
        case _:
            entries = commands.listing(directory)
            views.show({"certificates": entries}, commands.listing_text(entries), as_json=arguments.json)
    return int(ExitCode.OK)


def _join_code(arguments: argparse.Namespace) -> int:
    from gateway.pki import commands

    print(commands.join_code(load(arguments.config).pki.dir, arguments.device, arguments.ttl))
    return int(ExitCode.OK)


def _enrol_desk(arguments: argparse.Namespace) -> int:
    import signal

    from gateway.errors import PkiError
    from gateway.pki.desk import Desk
    from gateway.pki.register import Register

    log.configure()
    try:
        desk = Desk(Register(load(arguments.config).pki.dir), arguments.listen, arguments.port)
    except OSError as error:
        raise PkiError(f"{arguments.listen}:{arguments.port}: cannot listen: {error}") from None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: desk.stop())
    log.info("enrol-desk-open", address=arguments.listen, port=desk.port)
    desk.serve()
    return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
