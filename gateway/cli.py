"""``kinwatch-gateway``: run the gateway, look into its store, build model artifacts."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from contract.exit_codes import ExitCode
from gateway import log
from gateway.config import GatewayConfig, load, render
from gateway.errors import GatewayError

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
    keys = _command(commands, "keys", "make the release keys if missing; print the public files", _keys)
    keys.add_argument("--json", action="store_true", help="print JSON")
    config = _command(commands, "config", "check the configuration", _config)
    config.add_argument("--print-config", action="store_true", help="print the effective configuration")
    _add_model(commands)
    return parser


def _add_model(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    model = commands.add_parser("model", help="build, inspect, verify .tflite artifacts")
    verbs = model.add_subparsers(required=True, metavar="verb", dest="verb")
    build = verbs.add_parser("build", help="build the artifact of a model spec (needs TensorFlow)")
    build.add_argument("--out", type=Path, default=Path(), help="directory to write to (default: here)")
    build.add_argument("--spec", type=Path, help="model spec as JSON (default: the built-in one)")
    build.add_argument("--python", help="interpreter that has TensorFlow (default: this one)")
    for verb, text in (("inspect", "describe an artifact"), ("verify", "run the gate on an artifact")):
        verbs.add_parser(verb, help=text).add_argument("tflite", type=Path)
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


def _status(arguments: argparse.Namespace) -> int:
    return _view(arguments, "status")


def _families(arguments: argparse.Namespace) -> int:
    return _view(arguments, "families")


def _models(arguments: argparse.Namespace) -> int:
    return _view(arguments, "models")


def _reports(arguments: argparse.Namespace) -> int:
    return _view(arguments, "reports")


def _view(arguments: argparse.Namespace, name: str) -> int:
    """Print one view of the store, read only, so that it works beside a running gateway."""
    from gateway import views
    from gateway.store import Store

    store = Store(load(arguments.config).store.dir, read_only=True)
    try:
        why: str | None = getattr(arguments, "why", None)
        data = views.why(store, why) if why is not None else views.DATA[name](store)
        text = views.WHY if why is not None else views.TEXT[name]
        views.show(data, text(data), as_json=arguments.json)
    finally:
        store.close()
    return int(ExitCode.OK)


def _model(arguments: argparse.Namespace) -> int:
    from gateway.conversion import commands

    match arguments.verb:
        case "build":
            outcome = commands.build(arguments.out, spec_file=arguments.spec, python=arguments.python)
        case "inspect":
            outcome = commands.inspect(arguments.tflite)
        case _:
            outcome = commands.verify(arguments.tflite)
    print(outcome.text, file=sys.stdout if outcome.code == ExitCode.OK else sys.stderr)
    return int(outcome.code)


if __name__ == "__main__":
    sys.exit(main())
