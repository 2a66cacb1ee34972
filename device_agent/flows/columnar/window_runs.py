"""Openings and answers of many initiators at once: one window of each, all in the same array operations.

A *run* is what one initiator opened and what was answered to it within one window. Its first event is an opening.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from device_agent.flows.windows import (
    MOST_COUNTED,
    SATURATION,
    UNIT,
    Address,
    Distinct,
    Initiator,
    Opened,
    weights,
)

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Bool = npt.NDArray[np.bool_]

N_OPENED = len(Opened._fields)

PLACE_BITS = 15
"""Bits for where something stands, below what is sorted by. Above them an address has 32, the number of a run the rest:
a piece of 16,384 packets may bring as many openings and as many answers."""
_PLACE = (1 << PLACE_BITS) - 1


class Events(NamedTuple):
    """Columns of openings and answers, in their order. ``row`` counts the openings, for both kinds."""

    initiator: I64
    responder: I64
    port: I64
    window: I64
    number: I64
    answer: Bool
    row: Index

    def of(self, at: Index) -> "Events":
        """Return some of the events."""
        return Events(*[column[at] for column in self])  # type: ignore[arg-type]  # one by one costs twice as much


def starts_of(*columns: I64) -> Index:
    """Return where each stretch of rows begins that are equal in all columns; of no rows: nowhere."""
    begins = np.zeros(len(columns[0]), dtype=np.bool_)
    begins[:1] = True
    for values in columns:
        begins[1:] |= values[1:] != values[:-1]
    return begins.nonzero()[0]


def countable(entries: list[Initiator], n: int) -> bool:
    """Whether ``n`` more flows of each initiator all count for entropy."""
    return all(max(entry.peers.counted, entry.ports.counted) + n <= MOST_COUNTED for entry in entries)


def note_runs(entries: list[Initiator], begin: Index, events: Events) -> tuple[F64, int]:
    """Note runs, at most ``2**PLACE_BITS`` events in all, all of them ``countable``.

    Parameters
    ----------
    entries
        The initiator of each run, each another one, moved on to the window of the run.
    begin
        Where each run begins.
    events
        Run after run; ``responder`` and ``port`` below 2**32.

    Returns
    -------
    float64 array, shape (openings, 7)
        ``windows.Opened`` of each opening.
    int
        By how many the stored values grew.
    """
    opens = (~events.answer).nonzero()[0]
    run_of_event = np.repeat(np.arange(len(entries)), np.diff(np.append(begin, len(events.answer))))
    run = run_of_event[opens]
    of_runs = _OfRuns(run, np.searchsorted(run, np.arange(len(entries))))
    state = [(e.flows + e.flows_last, e.failed + e.failed_last, e.new) for e in entries]
    flows, failed, new = np.array(state, dtype=np.int64).T
    out = np.empty((N_OPENED, len(opens)))
    within = np.arange(len(opens)) - of_runs.first[run]
    out[0] = flows[run] + 1 + within
    out[3] = failed[run] + within
    n_opens = np.bincount(run, minlength=len(entries)).tolist()
    for entry, n in zip(entries, n_opens, strict=True):
        entry.flows += n
        entry.failed += n
    if len(opens) < len(run_of_event):
        out[3] -= _answers(entries, begin, events, run_of_event)[opens]
    responder, port = events.responder[opens], events.port[opens]
    peers = _note([entry.peers for entry in entries], of_runs, responder, np.ones(len(opens), dtype=np.bool_))
    ports = _note([entry.ports for entry in entries], of_runs, port, port != 0)
    fresh = _pairs(run[peers.fresh], responder[peers.fresh])
    known, known_last = [entry.known for entry in entries], [entry.known_last for entry in entries]
    met = peers.fresh[[peer not in known[r] and peer not in known_last[r] for r, peer in fresh]]
    for r in run[met].tolist():
        entries[r].new += 1
    marks = np.zeros(len(opens), dtype=np.int64)
    marks[met] = 1
    out[1], out[2], out[4] = peers.both, ports.both, new[run] + of_runs.so_far(marks)
    out[5], out[6] = peers.entropy_bits, ports.entropy_bits
    for place in (1, 2, 4):
        np.minimum(out[place], SATURATION, out=out[place])
    return out.T, peers.grown + ports.grown


class _OfRuns(NamedTuple):
    """The run of each opening, and the first opening of each run."""

    run: Index
    first: Index

    def so_far(self, summands: I64) -> I64:
        """Return for each opening the sum over those of its run up to it."""
        total = np.cumsum(summands)
        sums: I64 = total - (total - summands)[self.first][self.run]
        return sums


def _pairs(run: Index, values: I64) -> list[tuple[int, int]]:
    return list(zip(run.tolist(), values.tolist(), strict=True))


def _answers(entries: list[Initiator], begin: Index, events: Events, run: Index) -> I64:
    """Note the answers; return for each event how many came in its run before it."""
    at = events.answer.nonzero()[0]
    of, number = run[at], events.number[at]
    since = np.array([(entry.since, entry.since_last) for entry in entries], dtype=np.int64)
    to_current = number >= since[of, 0]
    to_last = ~to_current & (number >= since[of, 1])
    current = np.bincount(of[to_current], minlength=len(entries)).tolist()
    last = np.bincount(of[to_last], minlength=len(entries)).tolist()
    for entry, n, n_last in zip(entries, current, last, strict=True):
        entry.failed -= n
        entry.failed_last -= n_last
    counts = np.zeros(len(run), dtype=np.int64)
    counts[at] = to_current | to_last
    total = np.cumsum(counts)
    before: I64 = total - total[begin][run]
    return before


class _Noted(NamedTuple):
    """What values made of their ``Distinct``, with each of them; which were new to both windows; values stored."""

    both: I64
    entropy_bits: F64
    fresh: Index
    grown: int


def _note(distincts: list[Distinct], of_runs: _OfRuns, values: I64, given: Bool) -> _Noted:
    """Note those values that are ``given``; the others leave things as they were."""
    run, first = of_runs
    last = np.append(first[1:], len(values)) - 1
    for i, distinct in enumerate(distincts):
        if len(distinct.current) >= SATURATION:
            here = slice(first[i], last[i] + 1)
            given[here] &= _may_be_in(distinct.current, values[here])
    at = given.nonzero()[0]
    state = [(d.both, d.weight, d.counted + d.counted_last) for d in distincts]
    both_before, weight_before, counted_before = np.array(state, dtype=np.int64).T
    table = weights(int(counted_before.max()) + len(at))
    different, weight, flow = np.zeros((3, len(values)), dtype=np.int64)
    fresh, grown = np.zeros(0, dtype=np.intp), 0
    if len(at):
        order, start = _grouped(run[at], values[at])
        groups = _Groups(distincts, run, values, at[order[start]])
        sizes = np.diff(np.append(start, len(at)))
        stored = groups.store()
        of_value = np.arange(len(at)) + np.repeat(groups.here + np.maximum(groups.before, 0) - start, sizes)
        kept = np.repeat(groups.here >= 0, sizes)
        weight[at[order]] = (table[of_value + 1] - table[of_value]) * kept
        flow[at[order]] = kept
        fresh, grown = groups.first[stored[groups.before[stored] < 0]], len(stored)
        different[fresh] = 1
        groups.count(sizes, stored)
    both = both_before[run] + of_runs.so_far(different)
    weight = weight_before[run] + of_runs.so_far(weight)
    counted = counted_before[run] + of_runs.so_far(flow)
    for distinct, b, w, c in zip(distincts, *(x[last].tolist() for x in (both, weight, counted)), strict=True):
        distinct.both, distinct.weight, distinct.counted = b, w, c - distinct.counted_last
    return _Noted(both, (table[counted] - weight) / (np.maximum(counted, 1) * UNIT), fresh, grown)


def _grouped(run: Index, values: I64) -> tuple[Index, Index]:
    """Return an order by run and value, otherwise as they come, and where in it each group begins."""
    keys = (run << 32 | values) << PLACE_BITS | np.arange(len(values))
    keys.sort()
    return keys & _PLACE, starts_of(keys >> PLACE_BITS)


class _Groups:
    """The different values of each run.

    Attributes
    ----------
    first
        The first opening with each.
    here, before
        Its counts in the current and the last window, -1 where it is not stored.
    """

    def __init__(self, distincts: list[Distinct], run: Index, values: I64, first: Index) -> None:
        self.first = first
        self._run, self._values = run[first], values[first]
        self._current = [distinct.current for distinct in distincts]
        self._pairs = _pairs(self._run, self._values)
        last = [distinct.last for distinct in distincts]
        current, pairs = self._current, self._pairs
        self.here = np.array([current[r].get(value, -1) for r, value in pairs], dtype=np.int64)
        self.before = np.array([last[r].get(value, -1) for r, value in pairs], dtype=np.int64)

    def store(self) -> Index:
        """Give room to values that are not stored, as far as there is any, in the order of their first flows."""
        unknown = (self.here < 0).nonzero()[0]
        unknown = unknown[np.argsort(self.first[unknown])]
        run = self._run[unknown]
        room = SATURATION - np.array([len(current) for current in self._current])
        stored = unknown[np.arange(len(unknown)) - np.searchsorted(run, run) < room[run]]
        self.here[stored] = 0
        return stored

    def count(self, sizes: I64, stored: Index) -> None:
        """Add ``sizes`` flows to the counts; new values stand behind the others, in the order of ``stored``."""
        known = self.here >= 0
        known[stored] = False
        counts, current, pairs = (self.here + sizes).tolist(), self._current, self._pairs
        for group in (*known.nonzero()[0].tolist(), *stored.tolist()):
            run, value = pairs[group]
            current[run][value] = counts[group]


def _may_be_in(known: dict[Address, int], values: I64) -> Bool:
    """Return False for most of the values that are not known, and True for the others."""
    marks = np.zeros(1 << 16, dtype=np.bool_)
    marks[_folded(np.fromiter(known, dtype=np.int64, count=len(known)))] = True
    found: Bool = marks[_folded(values)]
    return found


def _folded(values: I64) -> I64:
    return (values ^ values >> 16) & 0xFFFF
