"""``ColumnarMeter``: the flow meter in array operations.

Order of work
-------------
A batch is taken in pieces of at most ``PIECE`` packets. Of a piece, packets are parsed, keys get rows, and a plan says
which packets open, cut and end flows. Flows of different keys touch each other at two places only: in a full table an
opening flow pushes out the oldest one, and the ticks of the packet clock close what is idle. Both take flows from the
head of one queue, the live flows by their last packet. So a plan holds as it is, unless a flow that would be taken has
packets later in the same range. Then its key is planned anew; where that is not enough, the range is split, and each
half planned on its own. A range of one packet always holds.

Records are those of the per-packet meter, each handed out by the same call. Within a call, what packets closed comes in
the order of the packets, then what the clock closed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from secrets import randbits

import numpy as np
import numpy.typing as npt

from device_agent.flows.applications import Applications, Dissector
from device_agent.flows.columnar.applications import read_batch
from device_agent.flows.columnar.book import Book, Range
from device_agent.flows.columnar.cut import Cutter
from device_agent.flows.columnar.early import Early
from device_agent.flows.columnar.flows import FlowTable, Rows
from device_agent.flows.columnar.limits import Limits
from device_agent.flows.columnar.parse import Packets, parse_batch
from device_agent.flows.columnar.sequence import TRAILING_US
from device_agent.flows.columnar.table import KeyTable, hash_words
from device_agent.flows.columnar.timeouts import supports
from device_agent.flows.meter import MeterCounters, MeterSettings
from device_agent.flows.records import EndReason, FlowBatch, PacketBatch

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

PIECE = 16_384
"""Packets worked on at once: beyond this the columns outgrow the caches."""

_SECOND_US = 1_000_000
_CLOCK_STEP_US = 60 * _SECOND_US
_EXPIRE_GRACE_US = _SECOND_US
_LATEST_US = 1 << 62


@dataclass(slots=True, eq=False)
class Span:
    """The packets ``start`` to ``stop`` of a piece, among which the clock does not step back.

    ``rows`` are those of the keys of all packets of the piece, ``time`` their times; ``clock`` is the packet clock from
    ``start`` on.
    """

    rows: Rows
    time: I64
    clock: I64
    start: int
    stop: int


class ColumnarMeter:
    """Flow meter with bounded memory; same rules, interface and records as ``FlowMeter``.

    Parameters
    ----------
    settings
        Timeouts and bounds.
    seed
        Secret of the hash, below 2**64; ``None`` draws one.
    hash_function
        Another hash, for tests.
    dissector
        Reads application payloads; without one their counts are 0.

    Attributes
    ----------
    counters
        Running totals; read them, do not change them.

    Raises
    ------
    ValueError
        If the timeouts are so long that statistics would not be exact; see ``supports``.
    """

    def __init__(
        self,
        settings: MeterSettings | None = None,
        *,
        seed: int | None = None,
        hash_function: Callable[[list[U64], int], U64] = hash_words,
        dissector: Dissector | None = None,
    ) -> None:
        settings = settings or MeterSettings()
        if not supports(settings):
            raise ValueError(f"timeouts too long for the columnar meter, use FlowMeter: {settings}")
        self._idle_us = round(settings.idle_s * _SECOND_US)
        keys = KeyTable(randbits(64) if seed is None else seed, hash_function)
        self._table = FlowTable(keys, 2 * settings.max_flows)
        self._cutter = Cutter(self._table, self._idle_us, round(settings.active_s * _SECOND_US))
        self._limits = Limits(self._table, self._cutter, settings.max_flows)
        self._clock_us = 0
        self._next_tick_us = 0
        self._disorder_until_us = -1
        self._turn = 0
        self.counters = MeterCounters()
        self._applications = Applications(dissector, settings.dissect_pps)
        self._book = Book(self._table, self.counters, Early(settings.early_pkts, settings.early_us))

    def __len__(self) -> int:
        """Return the number of live flows."""
        return self._table.n_live

    def feed(self, batch: PacketBatch) -> FlowBatch:
        """Meter a batch and return the records that were closed by it.

        Packets are taken in the order given; nothing in their bytes raises.
        """
        for start in range(0, len(batch), PIECE):
            self._piece(batch.slice(start, min(start + PIECE, len(batch))))
        return self._book.take()

    def expire(self, now_us: int) -> FlowBatch:
        """Close flows that are idle at ``now_us``, as ``FlowMeter.expire``."""
        time_us = min(now_us - _EXPIRE_GRACE_US, _LATEST_US)
        if time_us > self._clock_us:
            self._clock_us = time_us
            self._tick(time_us)
        self._table.sweep()
        return self._book.take()

    def flush(self) -> FlowBatch:
        """Close all flows, the one without packets for longest first."""
        self._close_all()
        self._table.sweep()
        return self._book.take()

    def _piece(self, batch: PacketBatch) -> None:
        packets, refused = parse_batch(batch)
        for reason, n in refused.items():
            self.counters.ignored[reason] += n
        self.counters.packets += len(batch)
        time = np.minimum(np.maximum(batch.ts_us, 0), _LATEST_US)
        rows = self._table.keys.rows(packets) if len(packets) else np.zeros(0, dtype=np.int32)
        self._table.fit()
        start = 0
        while start < len(time):
            clock = np.maximum.accumulate(np.maximum(time[start:], self._clock_us))
            if time[start] < self._clock_us - _CLOCK_STEP_US:
                self._step_back(int(time[start]))
                continue
            steps = (time[start + 1 :] < clock[:-1] - _CLOCK_STEP_US).nonzero()[0].tolist()
            stop = start + 1 + steps[0] if steps else len(time)
            self._run(batch, packets, Span(rows, time, clock, start, stop))
            start = stop
        self._turn += len(packets)
        self._table.sweep()

    def _step_back(self, time_us: int) -> None:
        self.counters.clock_steps += 1
        self._close_all()
        self._book.forget_initiators()
        self._clock_us = time_us
        self._next_tick_us = time_us - time_us % _SECOND_US + _SECOND_US
        self._disorder_until_us = -1

    def _run(self, batch: PacketBatch, packets: Packets, span: Span) -> None:
        """Meter a span of the piece."""
        time, clock, start, stop = span.time, span.clock, span.start, span.stop
        low, high = np.searchsorted(packets.at, (start, stop)).tolist()
        end_clock_us = int(clock[stop - start - 1])
        if low < high:
            at = packets.at[low:high]
            work = Range(packets, span.rows, np.zeros(high, dtype=np.int64), np.zeros(high, dtype=np.int64), None)
            work.time[low:], work.clock[low:] = time[at], clock[at - start]
            if self._applications.on:
                self._read(batch, work, (low, high))
            if not np.array_equal(work.time[low:], work.clock[low:]):
                self._disorder_until_us = end_clock_us + self._idle_us + 6 * _SECOND_US
            self._ranges(work, low, high)
        self._clock_us = end_clock_us
        self._tick(end_clock_us)

    def _read(self, batch: PacketBatch, work: Range, span: tuple[int, int]) -> None:
        """Dissect what is selected among some packets."""
        told = self._applications
        work.bits = read_batch(batch, work.packets, span, work.clock[span[0] :], told)
        self.counters.dissected, self.counters.undissected = told.dissected, told.skipped
        self.counters.malformed = told.malformed

    def _ranges(self, work: Range, low: int, high: int) -> None:
        """Meter the packets ``low`` to ``high``, in as few plans as hold."""
        waiting = [(low, high, True)]
        while waiting:
            low, high, ticks = waiting.pop()
            split, ticks_before = self._attempt(work, low, high, ticks=ticks)
            if split is not None:
                waiting += [(split, high, ticks), (low, split, ticks_before)]

    def _attempt(self, work: Range, low: int, high: int, *, ticks: bool) -> tuple[int | None, bool]:
        """Meter a range, or return where to split it.

        With times out of order, what the last tick closes depends on which packets came before it, so the range is
        split there. For earlier ticks, and with times in order, only the last tick counts: it closes what they do.
        """
        limits, clock = self._limits, work.clock
        disorder = int(clock[low]) < self._disorder_until_us
        strict = disorder or limits.near(high - low)
        if strict:
            self._tick(int(clock[low]))
        plan = self._cutter.plan(work.packets, work.rows, work.time, low, high)
        if strict:
            inner = limits.ticks(clock, low, high)
            if disorder:
                suspect = limits.suspect(plan, work.time, clock, self._idle_us)
                if suspect is not None:
                    return suspect, ticks
            if limits.exceeded(plan):
                if len(inner):
                    return int(inner[len(inner) // 2]), ticks
                evicted, forgotten, conflict = limits.victims(plan, work.time, low, high)
                if conflict is not None:
                    return conflict, ticks
                self._book.close(self._table.close(evicted), EndReason.EVICT)
                self._table.forget_ends(forgotten)
            elif disorder and ticks and len(inner):
                return int(inner[-1]), False
        self._book.carry_out(work, plan, self._turn)
        return None, ticks

    def _tick(self, time_us: int) -> None:
        """Close what is idle at the latest whole second, if it was not done yet."""
        if time_us < self._next_tick_us:
            return
        tick_us = time_us - time_us % _SECOND_US
        self._next_tick_us = tick_us + _SECOND_US
        table = self._table
        if table.n_live:
            self._book.close(table.close(table.idle(tick_us - self._idle_us)), EndReason.IDLE)
        if table.n_ended:
            table.forget_ends(table.stale_ends(tick_us - TRAILING_US))

    def _close_all(self) -> None:
        table = self._table
        self._book.close(table.close(table.oldest(table.n_live)), EndReason.FLUSH)
        table.forget_ends(table.oldest_ends(table.n_ended))
