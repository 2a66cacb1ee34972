"""Which flow meter to use: all give the same records, at different costs."""

from typing import Literal, Protocol

from device_agent.flows.applications import Dissector
from device_agent.flows.columnar.timeouts import supports
from device_agent.flows.fast.library import load
from device_agent.flows.meter import FlowMeter, MeterCounters, MeterSettings
from device_agent.flows.records import FlowBatch, PacketBatch

Engine = Literal["auto", "fast", "columnar", "packet"]
"""``fast``: compiled, if it is there; ``columnar``: array operations; ``packet``: plain Python, one by one."""


class Meter(Protocol):
    """Packet batches in, flow records out; see ``FlowMeter`` for the rules."""

    @property
    def counters(self) -> MeterCounters:
        """Running totals."""

    def __len__(self) -> int:
        """Return the number of live flows."""

    def feed(self, batch: PacketBatch) -> FlowBatch:
        """Meter a batch; return the records it closed."""

    def expire(self, now_us: int) -> FlowBatch:
        """Close what is idle at ``now_us``, epoch microseconds."""

    def flush(self) -> FlowBatch:
        """Close all flows."""


def make_meter(
    settings: MeterSettings | None = None, prefer: Engine = "auto", *, dissector: Dissector | None = None
) -> Meter:
    """Return a flow meter.

    Parameters
    ----------
    settings
        Timeouts and bounds; the defaults if None.
    prefer
        ``auto`` takes the compiled meter if there is one for this machine, else the columnar one; and the per-packet
        meter for timeouts of hours, which the others refuse.
    dissector
        Reads application payloads; without one their counts are 0.

    Raises
    ------
    ValueError
        If the engine asked for does not support the settings, or there is no such engine.
    """
    settings = settings or MeterSettings()
    if prefer == "packet" or (prefer == "auto" and not supports(settings)):
        return FlowMeter(settings, dissector=dissector)
    if prefer == "fast" or (prefer == "auto" and load() is not None):
        from device_agent.flows.fast.engine import FastMeter  # noqa: PLC0415 - a device keeps one meter in memory

        return FastMeter(settings, dissector=dissector)
    if prefer in ("auto", "columnar"):
        from device_agent.flows.columnar.engine import ColumnarMeter  # noqa: PLC0415 - likewise

        return ColumnarMeter(settings, dissector=dissector)
    raise ValueError(f"no meter engine {prefer!r}; there are auto, fast, columnar and packet")
