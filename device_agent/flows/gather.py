"""Small batches of packets taken together, where nobody waits for their records."""

from device_agent.flows.meter import MeterCounters
from device_agent.flows.records import FlowBatch, PacketBatch
from device_agent.flows.select import Meter

ENOUGH = 4_096
"""From so many packets on, what a batch costs whatever its size hardly shows."""


class Gathered:
    """A meter whose batches wait until there are ``ENOUGH`` packets, or until it is asked for anything else.

    It gives the records of the meter inside, in the same order, but some of them from a later call: ``feed`` of an
    empty batch, ``expire`` and ``flush`` give all there are. Who reads a file may leave the packets waiting; who reads
    packets as they come feeds an empty batch whenever somebody might want the records.

    Parameters
    ----------
    meter
        Meters the packets; its own from now on.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._waiting: list[PacketBatch] = []
        self._n_waiting = 0
        self._ready: list[FlowBatch] = []

    @property
    def counters(self) -> MeterCounters:
        """The totals of the meter, with all packets that were fed."""
        self._settle()
        return self._meter.counters

    def __len__(self) -> int:
        """Return the number of live flows, with all packets that were fed."""
        self._settle()
        return len(self._meter)

    def feed(self, batch: PacketBatch) -> FlowBatch:
        """Take a batch; return records that were closed, all of them if the batch is empty."""
        if self._waiting and batch.link_type != self._waiting[0].link_type:
            self._settle()
        if len(batch):
            self._waiting.append(batch)
            self._n_waiting += len(batch)
        if not len(batch) or self._n_waiting >= ENOUGH:
            self._settle()
        return self._take()

    def expire(self, now_us: int) -> FlowBatch:
        """Close flows that are idle at ``now_us``, as ``FlowMeter.expire``."""
        self._settle()
        self._ready.append(self._meter.expire(now_us))
        return self._take()

    def flush(self) -> FlowBatch:
        """Close all flows."""
        self._settle()
        self._ready.append(self._meter.flush())
        return self._take()

    def _settle(self) -> None:
        """Meter the packets that wait."""
        if self._waiting:
            waiting, self._waiting, self._n_waiting = self._waiting, [], 0
            self._ready.append(self._meter.feed(PacketBatch.joined(waiting)))

    def _take(self) -> FlowBatch:
        ready, self._ready = self._ready, []
        return FlowBatch.concat(ready)
