"""Where the columnar meter's time goes, stage by stage, from file to records.

The functions that begin a stage are wrapped; a stage has the CPU time between its begin and its end less that of the
stages inside it. The wrapping costs a few microseconds a batch, no more.
"""

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.flow_meter.ours import make
from device_agent.capture import mapped
from device_agent.capture.source import CaptureSettings
from device_agent.flows.columnar import book, cut, engine, fold, limits, openings, table

STAGES: tuple[tuple[str, Any, str], ...] = (
    ("reading the file", mapped.MappedCapture, "read"),
    ("parsing headers", engine, "parse_batch"),
    ("finding keys", table.KeyTable, "rows"),
    ("planning cuts and ends", cut.Cutter, "plan"),
    ("application payloads", engine, "read_batch"),
    ("counters of flows", fold, "fold"),
    ("initiator windows", openings.Openings, "note"),
    ("full table", limits.Limits, "victims"),
    ("storing and closing flows", book.Book, "carry_out"),
    ("records", book, "records"),
    ("all else", engine.ColumnarMeter, "feed"),
)


def measure(capture: Path, batch: int) -> dict[str, int]:
    """Return nanoseconds a packet by stage; a stage that this version does not have is left out."""
    spent: dict[str, float] = defaultdict(float)
    inside = [0.0]

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            began, before = time.process_time(), inside[0]
            try:
                return function(*arguments, **named)
            finally:
                whole = time.process_time() - began
                spent[name] += whole - (inside[0] - before)
                inside[0] = before + whole

        return run

    changed = [(owner, name, getattr(owner, name), stage) for stage, owner, name in STAGES if hasattr(owner, name)]
    library = mapped.load
    try:
        mapped.load = lambda: None  # type: ignore[assignment]
        for owner, name, function, stage in changed:
            setattr(owner, name, timed(stage, function))
        meter, source, packets = make("columnar"), mapped.MappedCapture(capture, CaptureSettings()), 0
        while (some := source.read(batch, 0.0)) is not None:
            packets += len(some)
            meter.feed(some)
    finally:
        mapped.load = library
        for owner, name, function, _ in changed:
            setattr(owner, name, function)
    return {stage: round(seconds / packets * 1e9) for stage, seconds in spent.items()}
