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

from device_agent.flows.columnar import fold
from device_agent.flows.columnar.cut import Cutter, Plan
from device_agent.flows.columnar.export import records
from device_agent.flows.columnar.flows import FlowTable, Rows
from device_agent.flows.columnar.limits import Limits
from device_agent.flows.columnar.openings import Openings
from device_agent.flows.columnar.parse import Packets, parse_batch
from device_agent.flows.columnar.sequence import DROPPED, NO_REASON, TRAILING_US
from device_agent.flows.columnar.state import KEY, NONE
from device_agent.flows.columnar.table import KeyTable, hash_words
from device_agent.flows.meter import AFTER_TCP_END, MeterCounters, MeterSettings
from device_agent.flows.records import EndReason, FlowBatch, PacketBatch

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

PIECE = 16_384
"""Packets worked on at once: beyond this the columns outgrow the caches."""

_SECOND_US = 1_000_000
_CLOCK_STEP_US = 60 * _SECOND_US
_EXPIRE_GRACE_US = _SECOND_US
_LATEST_US = 1 << 62


def supports(settings: MeterSettings) -> bool:
    """Whether gap statistics stay exact: timeouts of hours are for the per-packet meter."""
    idle_us, active_us = settings.idle_s * _SECOND_US, settings.active_s * _SECOND_US
    return min(idle_us, active_us) * active_us < 1 << 64


@dataclass(slots=True, eq=False)
class _Range:
    """Packets with the row of each one's key, its time, and the packet clock when it came."""

    packets: Packets
    rows: Rows
    time: I64
    clock: I64


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
    ) -> None:
        settings = settings or MeterSettings()
        if not supports(settings):
            raise ValueError(f"timeouts too long for the columnar meter, use FlowMeter: {settings}")
        self._idle_us = round(settings.idle_s * _SECOND_US)
        self._table = FlowTable(KeyTable(randbits(64) if seed is None else seed, hash_function))
        self._cutter = Cutter(self._table, self._idle_us, round(settings.active_s * _SECOND_US))
        self._limits = Limits(self._table, self._cutter, settings.max_flows)
        self._openings = Openings()
        self._clock_us = 0
        self._next_tick_us = 0
        self._disorder_until_us = -1
        self._turn = 0
        self._closed: list[tuple[npt.NDArray[np.void], npt.NDArray[np.uint8]]] = []
        self.counters = MeterCounters()

    def __len__(self) -> int:
        """Return the number of live flows."""
        return self._table.n_live

    def feed(self, batch: PacketBatch) -> FlowBatch:
        """Meter a batch and return the records that were closed by it.

        Packets are taken in the order given; nothing in their bytes raises.
        """
        for start in range(0, len(batch), PIECE):
            self._piece(batch.slice(start, min(start + PIECE, len(batch))))
        return self._take()

    def expire(self, now_us: int) -> FlowBatch:
        """Close flows that are idle at ``now_us``, as ``FlowMeter.expire``."""
        time_us = min(now_us - _EXPIRE_GRACE_US, _LATEST_US)
        if time_us > self._clock_us:
            self._clock_us = time_us
            self._tick(time_us)
        self._table.sweep()
        return self._take()

    def flush(self) -> FlowBatch:
        """Close all flows, the one without packets for longest first."""
        self._close_all()
        self._table.sweep()
        return self._take()

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
            steps = (time[start + 1 :] < clock[:-1] - _CLOCK_STEP_US).nonzero()[0] if len(clock) > 1 else ()
            first_steps = time[start] < self._clock_us - _CLOCK_STEP_US
            if first_steps:
                self._step_back(int(time[start]))
                continue
            stop = start + 1 + int(steps[0]) if len(steps) else len(time)
            self._run(packets, rows, time, clock, start, stop)
            start = stop
        self._turn += len(packets)
        self._table.sweep()

    def _step_back(self, time_us: int) -> None:
        self.counters.clock_steps += 1
        self._close_all()
        self._openings.clear()
        self._clock_us = time_us
        self._next_tick_us = time_us - time_us % _SECOND_US + _SECOND_US
        self._disorder_until_us = -1

    def _run(self, packets: Packets, rows: Rows, time: I64, clock: I64, start: int, stop: int) -> None:
        """Meter the packets ``start`` to ``stop`` of the piece, among which the clock does not step back."""
        low, high = np.searchsorted(packets.at, (start, stop)).tolist()
        end_clock_us = int(clock[stop - start - 1])
        if low < high:
            at = packets.at[low:high]
            work = _Range(packets, rows, np.zeros(high, dtype=np.int64), np.zeros(high, dtype=np.int64))
            work.time[low:], work.clock[low:] = time[at], clock[at - start]
            if not np.array_equal(work.time[low:], work.clock[low:]):
                self._disorder_until_us = end_clock_us + self._idle_us + 6 * _SECOND_US
            self._ranges(work, low, high)
        self._clock_us = end_clock_us
        self._tick(end_clock_us)

    def _ranges(self, work: "_Range", low: int, high: int) -> None:
        """Meter the packets ``low`` to ``high``, in as few plans as hold."""
        waiting = [(low, high, True)]
        while waiting:
            low, high, ticks = waiting.pop()
            split, ticks_before = self._attempt(work, low, high, ticks=ticks)
            if split is not None:
                waiting += [(split, high, ticks), (low, split, ticks_before)]

    def _attempt(self, work: "_Range", low: int, high: int, *, ticks: bool) -> tuple[int | None, bool]:
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
                self._close(self._table.close(evicted), EndReason.EVICT)
                self._table.forget_ends(forgotten)
            elif disorder and ticks and len(inner):
                return int(inner[-1]), False
        self._commit(work, plan)
        return None, ticks

    def _commit(self, work: "_Range", plan: Plan) -> None:
        """Carry out a plan."""
        table, counters = self._table, self.counters
        table.touch(plan.row)
        stored = np.array([key for key, _ in plan.stored], dtype=np.intp)
        for key, reason in plan.stored:
            self._close(table.close(plan.row[key : key + 1]), EndReason(reason))
        n_kept = len(plan.at)
        if plan.dropped:
            n_kept = int(np.count_nonzero(plan.does != DROPPED))
            counters.ignored[AFTER_TCP_END] += len(plan.at) - n_kept
        counters.metered += n_kept
        if n_kept:
            plan.live[stored] = False
            parts = fold.split(plan)
            flows = fold.fold(parts, work.packets, table)
            self._open(work, parts, flows)
            self._close_parts(parts, flows)
            self._store(parts, flows)
        self._remember_ends(plan)

    def _open(self, work: "_Range", parts: fold.Parts, flows: npt.NDArray[np.void]) -> None:
        """Give flows the counts of their initiators."""
        first = parts.first_part
        at = parts.at[parts.begin[first]]
        opened = parts.opened.nonzero()[0]
        opened = opened[np.argsort(at[opened])]
        counts = np.zeros((len(first), 3), dtype=np.int64)
        if len(opened) < len(first):
            counts[:] = self._table.flows["opened"][parts.row[first]]
        if len(opened):
            keys = np.empty(len(opened), dtype=KEY)
            self._table.label(keys, parts.row[first[opened]])
            swapped = flows["swapped"][first[opened]]
            counts[opened] = self._openings.note(keys, swapped, work.clock[at[opened]])
            self.counters.flows += len(opened)
            self.counters.initiators_evicted = self._openings.evicted
        flows["opened"] = counts[parts.flow]

    def _close_parts(self, parts: fold.Parts, flows: npt.NDArray[np.void]) -> None:
        """Close what the packets of a plan close, in their order."""
        table = self._table
        stored = (parts.before != NO_REASON).nonzero()[0]
        closed = fold.reasons(parts)
        if not len(stored) and not len(closed):
            return
        out = flows[closed]
        table.label(out, parts.row[closed])
        reasons, by = parts.reason[closed], parts.closed_by[closed]
        if len(stored):
            out = np.concatenate((table.copy(parts.row[stored]), out))
            reasons = np.concatenate((parts.before[stored], reasons))
            by = np.concatenate((parts.at[parts.begin[stored]], by))
        order = np.argsort(by, kind="stable")
        self._emit(out[order], reasons[order].astype(np.uint8))

    def _store(self, parts: fold.Parts, flows: npt.NDArray[np.void]) -> None:
        """Write the flows that live on into the table."""
        table = self._table
        last_of_key = np.append(parts.row[1:] != parts.row[:-1], [True])
        n_before = int(np.count_nonzero(table.live[parts.row[last_of_key]]))
        gone = (last_of_key & (parts.reason != NO_REASON)).nonzero()[0]
        kept = (last_of_key & (parts.reason == NO_REASON)).nonzero()[0]
        table.live[parts.row[gone]] = False
        table.last[parts.row[gone]] = NONE
        rows = parts.row[kept]
        table.flows[rows] = flows[kept]
        table.live[rows] = True
        table.last[rows] = flows["last"][kept]
        table.turn[rows] = parts.at[parts.end[kept] - 1] + self._turn
        table.n_live += len(kept) - n_before

    def _remember_ends(self, plan: Plan) -> None:
        """Note which keys TCP ended, for their trailing packets."""
        ends = (plan.after == EndReason.TCP_END).nonzero()[0]
        if not len(ends) and not len(plan.forgets):
            return
        table = self._table
        last_end, last_forget = np.full(len(plan.row), -1), np.full(len(plan.row), -1)
        last_end[np.searchsorted(plan.start, ends, side="right") - 1] = ends
        last_forget[np.searchsorted(plan.start, plan.forgets, side="right") - 1] = plan.forgets
        ended = ((last_end >= 0) & (last_end >= last_forget)).nonzero()[0]
        table.forget_ends(plan.row[(last_forget >= 0).nonzero()[0]])
        rows, at = plan.row[ended], last_end[ended]
        table.n_ended += len(rows) - int(np.count_nonzero(table.ended[rows] >= 0))
        table.ended[rows] = plan.time[at]
        table.ended_turn[rows] = plan.at[at] + self._turn

    def _tick(self, time_us: int) -> None:
        """Close what is idle at the latest whole second, if it was not done yet."""
        if time_us < self._next_tick_us:
            return
        tick_us = time_us - time_us % _SECOND_US
        self._next_tick_us = tick_us + _SECOND_US
        table = self._table
        if table.n_live:
            self._close(table.close(table.idle(tick_us - self._idle_us)), EndReason.IDLE)
        if table.n_ended:
            table.forget_ends(table.stale_ends(tick_us - TRAILING_US))

    def _close_all(self) -> None:
        table = self._table
        self._close(table.close(table.oldest(table.n_live)), EndReason.FLUSH)
        table.forget_ends(table.oldest_ends(table.n_ended))

    def _close(self, flows: npt.NDArray[np.void], reason: EndReason) -> None:
        if len(flows):
            self._emit(flows, np.full(len(flows), reason, dtype=np.uint8))

    def _emit(self, flows: npt.NDArray[np.void], reasons: npt.NDArray[np.uint8]) -> None:
        self._closed.append((flows, reasons))
        for reason, n in enumerate(np.bincount(reasons, minlength=len(EndReason)).tolist()):
            self.counters.records[EndReason(reason).name.lower()] += n

    def _take(self) -> FlowBatch:
        """Return and forget the records closed so far."""
        closed, self._closed = self._closed, []
        return records(closed)
