"""Command line of the testbed: ``kinwatch-testbed demo | replay | traffic | prepare | report``."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from contract.exit_codes import ExitCode
from testbed.errors import HarnessError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Parameters
    ----------
    argv
        Arguments without the program's name; ``None`` takes those of the process.
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except HarnessError as error:
        print(f"kinwatch-testbed: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("kinwatch-testbed: interrupted; everything it started is stopped", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left; there is nobody to tell
        return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kinwatch-testbed", description="Experiments with Kinwatch: labelled traffic, replay, demo runs, reports."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands.add_parser("demo", help="run broker, gateway and agents here and show what they learn"))
    _add_replay(commands.add_parser("replay", help="send a capture on an interface of an isolated network"))
    _add_traffic(commands.add_parser("traffic", help="write labelled synthetic captures"))
    _add_prepare(commands.add_parser("prepare", help="write labelled captures from public data sets on disk"))
    _add_report(commands.add_parser("report", help="show results.json again and write its page"))
    _add_benchmark(commands.add_parser("benchmark", help="compare the family engine with other methods"))
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_demo)
    parser.add_argument("--captures", type=Path, help="folder of labelled captures (default: generate traffic)")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder of the results (default: demo-out)")
    parser.add_argument("--seed", type=_count(0), default=1, help="seed of traffic and training (default: 1)")
    parser.add_argument("--devices", type=_count(1), help="only the first so many devices (default: all)")
    parser.add_argument("--rounds", type=_count(1), help="federated rounds (default: 40, quick: 16)")
    parser.add_argument("--broker", choices=("auto", "mosquitto", "embedded"), default="auto", help="MQTT broker")
    parser.add_argument("--port", type=_count(0), default=0, help="port of the broker on 127.0.0.1 (0: a free one)")
    parser.add_argument("--speed", type=_speed, default=0.0, help="packet time per wall time (0: as fast as read)")
    parser.add_argument("--quick", action="store_true", help="short traffic and few rounds")
    parser.add_argument("--keep-running", action="store_true", help="leave everything up until Ctrl-C")
    parser.add_argument(
        "--chaos",
        nargs="*",
        metavar="WHO@WHEN",
        help="kill -9 and restart, for example agent@learn gateway@round2 cam-1@exam (without points: a fixed plan)",
    )


def _demo(arguments: argparse.Namespace) -> int:
    from testbed import demo_chaos
    from testbed.console import make_console, make_progress, print_lines, print_results
    from testbed.demo import run_demo
    from testbed.demo_results import RunResults
    from testbed.demo_setup import DemoSettings
    from testbed.report import write_report

    quick = arguments.quick
    settings = DemoSettings(
        out=arguments.out,
        captures=arguments.captures,
        seed=arguments.seed,
        devices=arguments.devices,
        rounds=arguments.rounds or (16 if quick else 40),
        warmup_rounds=min(3 if quick else 5, max(1, (arguments.rounds or 16) // 2)),
        learn_s=600.0 if quick else 1_200.0,
        exam_s=300.0 if quick else 600.0,
        broker=arguments.broker,
        port=arguments.port,
        speed=arguments.speed,
        chaos=() if arguments.chaos is None else tuple(arguments.chaos) or demo_chaos.DEFAULT,
        keep_running=arguments.keep_running,
    )
    console = make_console()

    def finish(results: RunResults) -> None:
        report = write_report(results, settings.out / "report.html")
        print_results(console, results)
        print_lines(console, [("results", str(settings.out / "results.json")), ("report", str(report))])

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    with make_progress(console) as progress:
        results = run_demo(settings, progress, on_results=finish if settings.keep_running else None)
    if not settings.keep_running:
        finish(results)
    return ExitCode.OK


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Take SIGINT and SIGTERM as one way out, once: stopping the processes takes a bounded time and must not break."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_replay)
    parser.add_argument("capture", type=Path, help="pcap or pcapng file, also gzipped")
    parser.add_argument("interface", help="interface to send from")
    parser.add_argument("--speed", type=_positive, default=1.0, help="multiplier on the capture's timing (default: 1)")
    parser.add_argument("--pps", type=_positive, help="fixed rate in packets per second instead")
    parser.add_argument("--loops", type=_count(1), default=1, help="how often to send it (default: 1)")
    parser.add_argument("--limit", type=_count(1), help="only the first so many packets")
    parser.add_argument("--dst-mac", type=_mac, metavar="MAC", help="destination MAC of every frame")
    parser.add_argument("--cut-to-mtu", action="store_true", help="cut frames that are too long, else leave them out")
    parser.add_argument("--map-public", action="store_true", help="map public addresses to the benchmark range")
    parser.add_argument("--lab-isolated", metavar="INTERFACE", help="you state that this interface is cut off")
    parser.add_argument("--allow-public", action="store_true", help="send packets to public addresses as they are")


def _replay(arguments: argparse.Namespace) -> int:
    from testbed.interlock import Permit
    from testbed.pacing import Pace
    from testbed.replay import ReplayOptions, replay

    report = replay(
        ReplayOptions(
            capture=arguments.capture,
            interface=arguments.interface,
            pace=Pace(arguments.speed, arguments.pps, arguments.loops, arguments.limit),
            target_mac=arguments.dst_mac,
            cut_to_mtu=arguments.cut_to_mtu,
            map_public=arguments.map_public,
            permit=Permit(arguments.lab_isolated, arguments.allow_public),
        ),
        on_warning=lambda text: print(f"warning: {text}", file=sys.stderr),
    )
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(report.left_out.items())) or "none"
    print(f"sent      {report.sent:,} packets, {report.sent_bytes:,} bytes; left out: {left_out}")
    print(
        f"pace      {report.achieved_s:.2f} s of {report.requested_s:.2f} s asked, {report.achieved_pps:,.0f} packets/s"
    )
    if not report.valid:
        print("the pace was not kept within a tenth; figures from this run do not count", file=sys.stderr)
        return ExitCode.ACCEPTANCE
    return ExitCode.OK


def _add_traffic(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_traffic)
    parser.add_argument("out", type=Path, help="folder for the captures")
    parser.add_argument("--seed", type=_count(0), default=1, help="equal seeds give equal files (default: 1)")
    parser.add_argument("--devices", type=_count(1), help="only the first so many devices (default: all)")
    parser.add_argument("--learn-s", type=_positive, default=1_200.0, help="length of the learn part (default: 1200)")
    parser.add_argument("--exam-s", type=_positive, default=600.0, help="length of the exam part (default: 600)")


def _traffic(arguments: argparse.Namespace) -> int:
    from testbed.traffic.writer import CaptureInfo, generate

    def tell(info: CaptureInfo) -> None:
        print(f"{info.path}  {info.packets:,} packets, {info.attack_packets:,} of attacks, {info.size_bytes:,} bytes")

    try:
        generate(
            arguments.out,
            arguments.seed,
            learn_s=arguments.learn_s,
            exam_s=arguments.exam_s,
            devices=arguments.devices,
            on_written=tell,
        )
    except ValueError as error:
        raise HarnessError(str(error), code=ExitCode.USAGE) from None
    return ExitCode.OK


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_prepare)
    parser.add_argument("out", type=Path, help="folder for the captures, outside any repository")
    parser.add_argument("--data", type=Path, help="folder of the data sets (default: the variable KINWATCH_DATA)")


def _prepare(arguments: argparse.Namespace) -> int:
    from testbed.captures.prepare import PreparedHost, data_folder, prepare_real

    def tell(host: PreparedHost) -> None:
        for part, counts in (("learn", host.learn_packets), ("exam", host.exam_packets)):
            listed = ", ".join(f"{label} {count:,}" for label, count in sorted(counts.items()))
            print(f"{host.path}  {part}: {listed} packets")

    prepare_real(data_folder(arguments.data), arguments.out, on_written=tell)
    return ExitCode.OK


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_report)
    parser.add_argument("results", type=Path, help="results.json of a run")
    parser.add_argument("--out", type=Path, help="page to write (default: report.html beside it)")


def _report(arguments: argparse.Namespace) -> int:
    from testbed.console import make_console, print_lines, print_results
    from testbed.demo_results import read_results
    from testbed.report import write_report

    results = read_results(arguments.results)
    console = make_console()
    print_results(console, results)
    page = write_report(results, arguments.out or arguments.results.with_name("report.html"))
    print_lines(console, [("report", str(page))])
    return ExitCode.OK


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    from testbed.simulation.cli import add_arguments, run

    families = parser.add_subparsers(required=True, metavar="NAME").add_parser(
        "families", help="simulated fleets, many methods, equal budgets"
    )
    add_arguments(families)
    families.set_defaults(run=run)


class _Count:
    """A whole number of at least ``least``."""

    def __init__(self, least: int) -> None:
        self.least = least

    def __call__(self, text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < self.least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of {self.least} or more")
        return int(text)


def _count(least: int) -> _Count:
    return _Count(least)


def _speed(text: str) -> float:
    return 0.0 if text == "0" else _positive(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _mac(text: str) -> bytes:
    try:
        data = bytes.fromhex(text.replace(":", "").replace("-", ""))
    except ValueError:
        data = b""
    if len(data) != 6:
        raise argparse.ArgumentTypeError(f"{text!r} is no MAC address such as 02:00:00:00:00:01")
    return data


if __name__ == "__main__":
    sys.exit(main())
