"""``kinwatch-agent``: run the agent, look at flows, test a device, show the settings in effect."""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from contract.exit_codes import ExitCode
from device_agent.errors import AgentError
from device_agent.version import package_version

_LEVELS = ("debug", "info", "warning", "error")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code. A person's mistake is one line, never a trace."""
    parser = _parser()
    options = parser.parse_args(arguments)
    # One thread for mathematics: the packet path and the trainer share the cores.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    # Looking for plug-ins of pydantic reads the metadata of every package installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Nor are there time zones by name here; to look for their files loads the settings that Python was built with.
    os.environ.setdefault("PYTHONTZPATH", "")
    try:
        code: int = options.command(options)
    except AgentError as error:
        print(f"kinwatch-agent: {error}", file=sys.stderr)
        return int(error.exit_code)
    except BrokenPipeError:
        # The reader had enough. What is still buffered goes nowhere, so that the interpreter's last flush is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kinwatch-agent", description="Intrusion detection on a device.")
    parser.add_argument("--version", action="version", version=f"kinwatch-agent {package_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="capture, detect, train, talk to the gateway")
    run.add_argument("--config", type=Path, required=True, help="agent.toml")
    run.add_argument("--exit-at-end", action="store_true", help="leave when a capture file ends")
    run.add_argument("--log-level", choices=_LEVELS, default="info")
    run.set_defaults(command=_run)

    _add_flows(commands)
    test = commands.add_parser("self-test", help="check engine, store, sniffing and broker on this device")
    test.add_argument("--config", type=Path, required=True, help="agent.toml")
    test.set_defaults(command=_self_test)

    config = commands.add_parser("config", help="check a configuration")
    config.add_argument("--config", type=Path, required=True, help="agent.toml")
    config.add_argument("--print-config", action="store_true", help="print the settings in effect")
    config.set_defaults(command=_config)
    _add_enrol(commands)
    return parser


def _add_flows(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    flows = commands.add_parser("flows", help="print the flow records of a capture or an interface")
    flows.add_argument("source", help="pcap or pcapng file (also gzip), FIFO, - or the name of an interface")
    flows.add_argument("--format", choices=("csv", "jsonl", "parquet"), default="csv", help="default: csv")
    flows.add_argument("--output", type=Path, metavar="FILE", help="file to write; standard output without it")
    flows.add_argument("--seconds", type=float, metavar="S", help="stop after so many seconds")
    flows.add_argument("--engine", choices=("auto", "fast", "columnar", "packet"), default="auto", help="default: auto")
    flows.add_argument("--bpf", default="", help="filter for interfaces")
    flows.add_argument("--idle", type=float, default=15.0, metavar="S", help="idle timeout, seconds (default: 15)")
    flows.add_argument("--active", type=float, default=60.0, metavar="S", help="active timeout, seconds (default: 60)")
    flows.add_argument(
        "--early-pkts", type=int, default=0, metavar="N", help="also a record at the Nth packet of a flow"
    )
    flows.add_argument("--early-s", type=float, default=0.0, metavar="S", help="also a record S seconds into a flow")
    flows.add_argument(
        "--dissect-pps",
        type=int,
        default=1_000,
        metavar="N",
        help="application payloads to read in a second of packet time, 0 for none (default: 1000)",
    )
    flows.set_defaults(command=_flows)


def _add_enrol(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    enrol = commands.add_parser("enrol", help="make the device's key and get its certificate, or renew it")
    enrol.add_argument("--device", required=True, help="device id")
    enrol.add_argument("--dir", type=Path, required=True, help="where device.key, device.crt and ca.crt live")
    enrol.add_argument("--gateway", metavar="HOST:PORT", help="enrolment desk; without it the request is printed")
    enrol.add_argument("--code", help="join code, for the first certificate")
    enrol.add_argument("--renew-days", type=float, default=90.0, help="renew when fewer days are left (default: 90)")
    enrol.set_defaults(command=_enrol)


def _run(options: argparse.Namespace) -> int:
    from device_agent.allocator import save_memory
    from device_agent.later import put_off

    save_memory()
    put_off()
    from device_agent.config import load_config
    from device_agent.parts import build
    from device_agent.service import Agent

    _start_logging(options.log_level)
    agent = Agent(build(load_config(options.config), version=package_version()))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: agent.stop())
    try:
        return int(agent.run(exit_at_end=options.exit_at_end))
    except AgentError:
        raise
    except Exception:  # supervision: the trace goes to the log, the code to the supervisor
        logging.getLogger("kinwatch.agent").exception("event=crashed")
        return int(ExitCode.INTERNAL)


def _start_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("ts=%(asctime)s.%(msecs)03dZ level=%(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _flows(options: argparse.Namespace) -> int:
    from device_agent.export.command import run

    return run(options)


def _self_test(options: argparse.Namespace) -> int:
    from device_agent.config import load_config
    from device_agent.self_test import run_checks

    results = run_checks(load_config(options.config))
    width = max(len(result.name) for result in results)
    for result in results:
        print(f"{result.name:<{width}}  {'ok' if result.ok else 'FAILED':<6}  {result.detail}")
    return int(next((result.exit_code for result in results if not result.ok), ExitCode.OK))


def _config(options: argparse.Namespace) -> int:
    from device_agent.config import load_config, render_config

    config = load_config(options.config)
    print(render_config(config) if options.print_config else f"{options.config}: fine")
    return int(ExitCode.OK)


def _enrol(options: argparse.Namespace) -> int:
    from device_agent import identity
    from device_agent.errors import ConfigError

    if options.gateway is None:
        print(identity.make_request(options.dir, options.device).decode(), end="")
        return int(ExitCode.OK)
    host, _, port = options.gateway.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--gateway {options.gateway}: write HOST:PORT")
    desk = identity.Desk(host, int(port))
    if options.code is not None:
        ends_s = identity.enrol(options.dir, options.device, desk, options.code)
    else:
        left = identity.days_left(options.dir / identity.CERTIFICATE, now_s=time.time())
        if left > options.renew_days:
            print(f"{options.device}: the certificate is good for {left:.0f} more days")
            return int(ExitCode.OK)
        ends_s = identity.renew(options.dir, options.device, desk)
    ends = time.strftime("%Y-%m-%d", time.gmtime(ends_s))
    print(f"{options.device}: certificate in {options.dir}, good until {ends}")
    return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
