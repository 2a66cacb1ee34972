"""What a plan changes: flows opened, counted and closed, and the records and counters of it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.flows.columnar import applications, fold
from device_agent.flows.columnar.cut import Plan
from device_agent.flows.columnar.early import Early, with_snapshots
from device_agent.flows.columnar.export import records
from device_agent.flows.columnar.flows import FlowTable, Rows
from device_agent.flows.columnar.openings import Openings
from device_agent.flows.columnar.parse import Packets
from device_agent.flows.columnar.parts import Parts
from device_agent.flows.columnar.sequence import DROPPED, NO_REASON
from device_agent.flows.columnar.state import EVENT, NONE, joined, put
from device_agent.flows.meter import AFTER_TCP_END, MeterCounters
from device_agent.flows.records import EndReason, FlowBatch

I64 = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]

_REASON_NAMES = tuple(reason.name.lower() for reason in EndReason)


@dataclass(slots=True, eq=False)
class Range:
    """Packets: the row of each one's key, its time, the packet clock when it came, and what dissection told of it."""

    packets: Packets
    rows: Rows
    time: I64
    clock: I64
    bits: npt.NDArray[np.uint16] | None


@dataclass(slots=True, eq=False)
class Snapshots:
    """Early records: the parts they tell of, the packets they come with, and their counters."""

    part: npt.NDArray[np.intp]
    by: I64
    flows: npt.NDArray[np.void]


class Book:
    """Keeps table, counters and closed flows in step.

    Parameters
    ----------
    table
        The live flows; changed.
    counters
        The meter's totals; changed.
    early
        Which flows get early records.
    """

    def __init__(self, table: FlowTable, counters: MeterCounters, early: Early) -> None:
        self._table = table
        self._early = early
        self._openings = Openings()
        self._closed: list[tuple[npt.NDArray[np.void], npt.NDArray[np.uint8]]] = []
        self.counters = counters

    def forget_initiators(self) -> None:
        """Begin all windows anew, as after a step of the clock."""
        self._openings.windows.clear()

    def carry_out(self, work: Range, plan: Plan, turn: int) -> None:
        """Carry out a plan.

        Parameters
        ----------
        work
            The packets planned for.
        plan
            What they do.
        turn
            Number of packets metered before those of ``work``.
        """
        table, counters = self._table, self.counters
        table.touch(plan.row)
        stored = np.array([key for key, _ in plan.stored], dtype=np.intp)
        for key, reason in plan.stored:
            self.close(table.close(plan.row[key : key + 1]), EndReason(reason))
        n_kept = len(plan.at)
        if plan.dropped:
            n_kept = int(np.count_nonzero(plan.does != DROPPED))
            counters.ignored[AFTER_TCP_END] += len(plan.at) - n_kept
        counters.metered += n_kept
        if n_kept:
            plan.live[stored] = False
            parts = fold.split(plan)
            part, end = self._early.snapshots(parts, table)
            folded = with_snapshots(parts, part, end)
            flows, answers = fold.fold(folded, work.packets, table)
            if work.bits is not None:
                applications.count(flows, folded, work.bits)
            flows, snapshots = flows[: len(parts.begin)], flows[len(parts.begin) :]
            self._open(work, parts, flows, answers[: len(parts.first_part)])
            snapshots["number"], snapshots["opened"] = flows["number"][part], flows["opened"][part]
            self._close_parts(parts, flows, Snapshots(part, parts.at[end - 1], snapshots))
            self._store(parts, flows, turn)
        self._remember_ends(plan, turn)

    def _open(self, work: Range, parts: Parts, flows: npt.NDArray[np.void], answers: Index) -> None:
        """Give flows their numbers, and the features of their initiators as they stood."""
        first, counters = parts.first_part, self.counters
        began = parts.at[parts.begin[first]]
        opened = parts.opened.nonzero()[0]
        opened = opened[np.argsort(began[opened])]
        answered = (answers >= 0).nonzero()[0]
        of_table = parts.row[first]
        number, features = flows["number"][first], flows["opened"][first]
        number[opened] = np.arange(counters.flows, counters.flows + len(opened))
        counters.flows += len(opened)
        if len(opened) + len(answered):
            flow = np.concatenate((opened, answered))
            events = np.empty(len(flow), dtype=EVENT)
            self._table.label(events, of_table[flow])
            events["swapped"] = flows["swapped"][first[flow]]
            events["number"] = number[flow]
            events["answer"][: len(opened)], events["answer"][len(opened) :] = False, True
            events["clock"] = work.clock[began[flow]]
            # A packet that opens a flow may answer it too.
            at = np.concatenate((began[opened] * 2, parts.at[answers[answered]] * 2 + 1))
            features[opened] = self._openings.note(events.take(np.argsort(at)))
            counters.initiators_evicted = self._openings.windows.evicted
        flows["number"], flows["opened"] = number[parts.flow], features[parts.flow]

    def _close_parts(self, parts: Parts, flows: npt.NDArray[np.void], early: "Snapshots") -> None:
        """Hand out what the packets of a plan close, and early records, in the order of the packets."""
        table = self._table
        stored = (parts.before != NO_REASON).nonzero()[0]
        closed = (parts.reason != NO_REASON).nonzero()[0]
        if not len(stored) and not len(closed) and not len(early.part):
            return
        out = flows.take(closed)
        table.label(out, parts.row[closed])
        reasons, by = parts.reason[closed], 4 * parts.closed_by[closed]
        # A packet closes what was there before it, then is counted, which may make an early record or end its flow.
        by += 2 * (parts.closed_by[closed] == parts.at[parts.end[closed] - 1])
        if len(stored):
            out = joined([table.copy(parts.row[stored]), out])
            reasons = np.concatenate((parts.before[stored], reasons))
            by = np.concatenate((4 * parts.at[parts.begin[stored]], by))
        if len(early.part):
            table.label(early.flows, parts.row[early.part])
            out = joined([out, early.flows])
            reasons = np.concatenate((reasons, np.full(len(early.part), EndReason.EARLY, dtype=reasons.dtype)))
            by = np.concatenate((by, 4 * early.by + 1))
        order = np.argsort(by, kind="stable")
        self._emit(out.take(order), reasons[order].astype(np.uint8))

    def _store(self, parts: Parts, flows: npt.NDArray[np.void], turn: int) -> None:
        """Write the flows that live on into the table."""
        table = self._table
        last_of_key = np.append(parts.row[1:] != parts.row[:-1], [True])
        n_before = int(np.count_nonzero(table.live[parts.row[last_of_key]]))
        gone = (last_of_key & (parts.reason != NO_REASON)).nonzero()[0]
        kept = (last_of_key & (parts.reason == NO_REASON)).nonzero()[0]
        table.live[parts.row[gone]] = False
        table.last[parts.row[gone]] = NONE
        rows = parts.row[kept]
        put(table.flows, rows, flows if len(kept) == len(flows) else flows.take(kept))
        table.live[rows] = True
        table.last[rows] = flows["last"][kept]
        table.turn[rows] = parts.at[parts.end[kept] - 1] + turn
        table.n_live += len(kept) - n_before

    def _remember_ends(self, plan: Plan, turn: int) -> None:
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
        table.ended_turn[rows] = plan.at[at] + turn

    def close(self, flows: npt.NDArray[np.void], reason: EndReason) -> None:
        """Note flows that were closed for one reason."""
        if len(flows):
            self._closed.append((flows, np.full(len(flows), reason, dtype=np.uint8)))
            self.counters.records[_REASON_NAMES[reason]] += len(flows)

    def _emit(self, flows: npt.NDArray[np.void], reasons: npt.NDArray[np.uint8]) -> None:
        self._closed.append((flows, reasons))
        for name, n in zip(_REASON_NAMES, np.bincount(reasons).tolist(), strict=False):
            self.counters.records[name] += n

    def take(self) -> FlowBatch:
        """Return and forget the records closed so far."""
        closed, self._closed = self._closed, []
        return records(closed)
