"""Flow records as CSV or JSON lines, and the loop behind ``kinwatch-agent flows``."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal, Protocol, TextIO

import numpy as np

from contract.features import FEATURES
from device_agent.flows.meter import FlowMeter, MeterCounters
from device_agent.flows.records import EndReason, FlowBatch, PacketBatch

Format = Literal["csv", "jsonl"]

IDENTITY_COLUMNS = (
    "flow_id",
    "ts_start_us",
    "ts_end_us",
    "src_ip",
    "dst_ip",
    "src_port",
    "dst_port",
    "proto",
    "vlan",
    "end_reason",
    "part_index",
)
COLUMNS = (*IDENTITY_COLUMNS, *(feature.name for feature in FEATURES))
"""Column order of both formats: who and when, then the features of the schema."""

_BATCH_PACKETS = 4_096
_TIMEOUT_S = 0.5
_WHOLE = np.array([f.unit in {"1", "B"} and not f.name.endswith(("_mean", "_std", "_ratio")) for f in FEATURES])


class PacketReader(Protocol):
    """The part of a capture source that is needed here."""

    @property
    def live(self) -> bool:
        """Whether packets come on the clock of this host."""

    def read(self, max_packets: int, timeout_s: float) -> PacketBatch | None:
        """Return the next packets; None at the end."""


class Writer(Protocol):
    """Takes flow records."""

    def write(self, batch: FlowBatch) -> None:
        """Write all rows of a batch."""


def rows(batch: FlowBatch) -> Iterator[dict[str, int | float | str]]:
    """Yield each record as a mapping of ``COLUMNS`` to plain values; counts and sizes are integers."""
    for index, (record, features) in enumerate(zip(batch.identity, batch.features, strict=True)):
        src_ip, dst_ip = batch.ip_text(index)
        row: dict[str, int | float | str] = {
            name: int(record[name]) for name in ("flow_id", "ts_start_us", "ts_end_us")
        }
        row |= {"src_ip": src_ip, "dst_ip": dst_ip}
        row |= {name: int(record[name]) for name in ("src_port", "dst_port", "proto", "vlan")}
        row["end_reason"] = EndReason(int(record["end_reason"])).name.lower()
        row["part_index"] = int(record["part_index"])
        for feature, whole, value in zip(FEATURES, _WHOLE, features.tolist(), strict=True):
            row[feature.name] = int(value) if whole else value
        yield row


class JsonLinesWriter:
    """One JSON object a line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, batch: FlowBatch) -> None:
        """Write all rows of a batch."""
        for row in rows(batch):
            self._out.write(json.dumps(row, separators=(",", ":")) + "\n")


class CsvWriter:
    """A header line, then one line a record."""

    def __init__(self, out: TextIO) -> None:
        self._csv = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        self._csv.writeheader()

    def write(self, batch: FlowBatch) -> None:
        """Write all rows of a batch."""
        self._csv.writerows(rows(batch))


WRITERS: dict[Format, Callable[[TextIO], Writer]] = {"csv": CsvWriter, "jsonl": JsonLinesWriter}


@dataclass(frozen=True, slots=True)
class FlowsSummary:
    """What ``run_flows`` did.

    Attributes
    ----------
    records
        Flow records written.
    counters
        The meter's counters.
    """

    records: int
    counters: MeterCounters

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self)


def run_flows(
    source: PacketReader,
    writer: Writer,
    meter: FlowMeter | None = None,
    *,
    clock_us: Callable[[], int] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> FlowsSummary:
    """Meter a source to its end, or until ``stop()``, and write every record as soon as it is closed.

    Flows still open at the end are written too, also when the source fails; its error is raised after that.

    Parameters
    ----------
    source
        An opened capture source; the caller closes it.
    writer
        One of ``WRITERS``.
    meter
        Default settings if None.
    clock_us
        Epoch microseconds; expires flows of a live source while no packet comes.
    stop
        Asked between reads.

    Raises
    ------
    CaptureInputError
        What the source raises.
    """
    meter = FlowMeter() if meter is None else meter  # an empty meter is false
    records = 0

    def put(batch: FlowBatch) -> None:
        nonlocal records
        if len(batch):
            writer.write(batch)
            records += len(batch)

    try:
        while not stop():
            packets = source.read(_BATCH_PACKETS, _TIMEOUT_S)
            if packets is None:
                break
            put(meter.feed(packets))
            if source.live and clock_us is not None:
                put(meter.expire(clock_us()))
    finally:
        put(meter.flush())
    return FlowsSummary(records, meter.counters)
