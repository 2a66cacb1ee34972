"""``kinwatch-agent flows``: the flow records of a capture or an interface, for people and other programs."""

import argparse
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol, TextIO, cast

from contract.exit_codes import ExitCode
from device_agent.capture.applications import ScapyDissector
from device_agent.capture.source import INTERFACE_PREFIX, STDIN, CaptureSettings, Source, open_source
from device_agent.errors import ConfigError
from device_agent.export.loop import FlowsSummary, run_flows
from device_agent.export.parquet import ParquetWriter
from device_agent.export.progress import Progress, Stand
from device_agent.export.text import CsvWriter, JsonLinesWriter
from device_agent.flows.fast.engine import FastMeter
from device_agent.flows.meter import FlowMeter, MeterSettings
from device_agent.flows.records import FlowBatch
from device_agent.flows.select import Meter, make_meter

_LOSSES = {
    "kernel_dropped_packets": "lost in the kernel",
    "oversized_packets": "joined by offloading",
    "truncated": "cut short at the end",
    "undescribed_dropped_packets": "of interfaces that the capture does not describe",
}


class _Writer(Protocol):
    def write(self, batch: FlowBatch) -> None:
        """Write all rows of a batch."""

    def close(self) -> None:
        """Complete the output; the file stays open."""


def run(options: argparse.Namespace) -> int:
    """Write the flow records of a source; return the exit code.

    Raises
    ------
    AgentError
        If the source, the output or a setting is of no use.
    """
    meter = _meter(options)
    source = open_source(_spec(options.source), CaptureSettings(bpf=options.bpf))
    try:
        with _stopping(options.seconds) as stopped, _output(options, live=source.live) as out:
            writer = _writer(options.format, out)
            try:
                summary = _run(source, writer, meter, options, stopped)
            finally:
                writer.close()
    finally:
        losses = source.counters()
        source.close()
    sys.stderr.write(_report(summary, meter, losses) + "\n")
    return int(ExitCode.INTERRUPTED if stopped.by_signal and not source.live else ExitCode.OK)


def _meter(options: argparse.Namespace) -> Meter:
    try:
        settings = MeterSettings(
            idle_s=options.idle,
            active_s=options.active,
            early_pkts=options.early_pkts,
            early_s=options.early_s,
            dissect_pps=options.dissect_pps,
        )
        dissector = ScapyDissector() if settings.dissect_pps else None
        return make_meter(settings, options.engine, dissector=dissector)
    except ValueError as error:
        raise ConfigError(f"--idle, --active, --early-pkts, --early-s, --dissect-pps, --engine: {error}") from None


def _spec(name: str) -> str:
    """Return what ``open_source`` takes; the bare name of an interface is one unless there is such a file."""
    if name == STDIN or name.startswith(INTERFACE_PREFIX) or Path(name).exists():
        return name
    return f"{INTERFACE_PREFIX}{name}" if name in {other for _, other in socket.if_nameindex()} else name


class _Stopped:
    """Whether it is time to stop: by a signal, or because the time is over."""

    def __init__(self, seconds: float | None) -> None:
        self.by_signal = False
        self._end_s = None if seconds is None else time.monotonic() + seconds

    def __call__(self) -> bool:
        return self.by_signal or (self._end_s is not None and time.monotonic() >= self._end_s)

    def handle(self, _number: int, _frame: object) -> None:
        if self.by_signal:  # the second time is meant
            raise KeyboardInterrupt
        self.by_signal = True


@contextmanager
def _stopping(seconds: float | None) -> Iterator[_Stopped]:
    """Turn signals into an orderly end while flows are written."""
    stopped = _Stopped(seconds)
    before = {number: signal.signal(number, stopped.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _output(options: argparse.Namespace, *, live: bool) -> Iterator[IO[Any]]:
    """Open the output: a file, or standard output. Records of an interface leave line by line."""
    binary = options.format == "parquet"
    if options.output is None:
        if binary and sys.stdout.isatty():
            raise ConfigError("--format parquet: not for a terminal; add --output FILE or redirect")
        if live and hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(line_buffering=True)
        yield sys.stdout.buffer if binary else sys.stdout
        return
    try:
        out: IO[Any] = (
            options.output.open("wb")
            if binary
            else options.output.open("w", encoding="utf-8", newline="", buffering=1 if live else -1)
        )
    except OSError as error:
        raise ConfigError(f"{options.output}: cannot be written: {error.strerror}") from None
    with out:
        yield out


def _writer(form: str, out: IO[Any]) -> _Writer:
    if form == "parquet":
        return ParquetWriter(cast("BinaryIO", out))
    return (CsvWriter if form == "csv" else JsonLinesWriter)(cast("TextIO", out))


def _run(source: Source, writer: _Writer, meter: Meter, options: argparse.Namespace, stopped: _Stopped) -> FlowsSummary:
    """Run the loop, with a line of progress where nothing else is written to that terminal."""
    shown = sys.stderr.isatty() and (options.output is not None or not sys.stdout.isatty())
    progress = Progress(sys.stderr) if shown else None

    def step(packets: int, records: int) -> None:
        if progress is not None:
            progress.show(Stand(*(source.progress or (0, 0)), packets, records))

    try:
        return run_flows(source, writer, meter, clock_us=lambda: time.time_ns() // 1_000, stop=stopped, on_step=step)
    finally:
        if progress is not None:
            progress.close()


def _report(summary: FlowsSummary, meter: Meter, losses: dict[str, int]) -> str:
    """Return what became of every packet, on one line."""
    counters = summary.counters
    ignored = ", ".join(f"{count:,} {reason}" for reason, count in counters.ignored.items() if count) or "none"
    parts = [
        f"{summary.records} flow records of {counters.packets} packets, {counters.metered} metered",
        f"ignored: {ignored}",
    ]
    parts += [f"{what}: {losses[name]:,}" for name, what in _LOSSES.items() if losses.get(name)]
    if counters.undissected:
        parts.append(f"payloads beyond --dissect-pps: {counters.undissected:,}")
    if counters.records.get("evict"):
        parts.append(f"evicted for lack of room: {counters.records['evict']:,}")
    return "; ".join([*parts, f"engine: {_engine_name(meter)}"])


def _engine_name(meter: Meter) -> str:
    return {FastMeter: "fast", FlowMeter: "packet"}.get(type(meter), "columnar")
