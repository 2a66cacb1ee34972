"""The loop behind ``kinwatch-agent flows``: from a source through a meter to a writer."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

from device_agent.flows.gather import Gathered
from device_agent.flows.meter import MeterCounters
from device_agent.flows.records import FlowBatch, PacketBatch
from device_agent.flows.select import Meter, make_meter

_BATCH_PACKETS = 16_384
_TIMEOUT_S = 0.5
_WAIT_S = 0.25
"""After so long, packets do not wait for others to be metered with them; nor when none come for ``_TIMEOUT_S``."""

_NOTHING = PacketBatch.from_frames([], [])


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
    meter: Meter | None = None,
    *,
    clock_us: Callable[[], int] | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[int, int], None] = lambda _packets, _records: None,
    monotonic: Callable[[], float] = time.monotonic,
) -> FlowsSummary:
    """Meter a source to its end, or until ``stop()``, and write every record when it is closed.

    A pipe gives a few hundred packets at a time, which would cost several times as much each: they are gathered, for
    half a second at most.

    Flows still open at the end are written too, also when the source fails; its error is raised after that.

    Parameters
    ----------
    source
        An opened capture source; the caller closes it.
    writer
        Takes the records.
    meter
        Default settings and the fastest engine if None.
    clock_us
        Epoch microseconds; expires flows of a live source while no packet comes.
    stop
        Asked between reads.
    on_step
        Told after each read: packets and records so far.
    monotonic
        Seconds that never go back.

    Raises
    ------
    CaptureInputError
        What the source raises.
    """
    meter = make_meter() if meter is None else meter  # an empty meter is false
    if not source.live:
        meter = Gathered(meter)
    records, packets_read, settle_s = 0, 0, monotonic() + _WAIT_S

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
            if monotonic() >= settle_s:
                put(meter.feed(_NOTHING))
                settle_s = monotonic() + _WAIT_S
            if source.live and clock_us is not None:
                put(meter.expire(clock_us()))
            packets_read += len(packets)
            on_step(packets_read, records)
    finally:
        put(meter.flush())
    return FlowsSummary(records, meter.counters)
