"""The ``initiator_*`` features of flows that a batch opens: ``device_agent.flows.windows``, many flows at once.

A scanner opens thousands of flows in a batch. As long as no initiator has to be forgotten for lack of room, initiators
do not touch each other, so each one's openings and answers are taken together: those of a busy one window by window in
array operations, those of the others one by one. When room runs short, all are taken one by one in their order.
"""

from operator import itemgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from device_agent.flows.windows import (
    MAX_INITIATORS,
    MAX_VALUES,
    MOST_COUNTED,
    SATURATION,
    UNIT,
    WINDOW_US,
    Address,
    Distinct,
    Initiator,
    InitiatorWindows,
    Opened,
    weights,
)

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
F64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Bool = npt.NDArray[np.bool_]

N_OPENED = len(Opened._fields)

_32, _LOW_32, _48, _LOW_16 = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(48), np.uint64(0xFFFF)
_BUSY = 128
"""From so many openings and answers of one initiator on, arrays cost less."""

_first = itemgetter(0)


class _Events(NamedTuple):
    """Columns of openings and answers, in their order. ``row`` counts the openings, for both kinds."""

    initiator: I64
    responder: I64
    port: I64
    window: I64
    number: I64
    answer: Bool
    row: Index

    def of(self, at: Index | slice) -> "_Events":
        """Return some of the events."""
        return _Events(
            self.initiator[at],
            self.responder[at],
            self.port[at],
            self.window[at],
            self.number[at],
            self.answer[at],
            self.row[at],
        )


class Openings:
    """Initiator windows, told of many flows at once; the same as ``InitiatorWindows``, told of each.

    Attributes
    ----------
    windows
        The windows.
    """

    def __init__(self, max_initiators: int = MAX_INITIATORS, max_values: int = MAX_VALUES) -> None:
        self.windows = InitiatorWindows(max_initiators, max_values)

    def note(self, events: npt.NDArray[np.void]) -> F64:
        """Note openings and answers in the order in which they came.

        Parameters
        ----------
        events
            Structured, with the fields of ``state.EVENT``.

        Returns
        -------
        float64 array, shape (openings, 7)
            ``windows.Opened`` of each opening.
        """
        key_0, key_1, swapped = events["key_0"], events["key_1"], events["swapped"]
        both = np.where(swapped, key_0 << _32 | key_0 >> _32, key_0)
        answer, six = events["answer"], events["is_v6"]
        found = _Events(
            initiator=(both >> _32).astype(np.int64),
            responder=(both & _LOW_32).astype(np.int64),
            port=np.where(swapped, key_1 >> _48, key_1 >> _32 & _LOW_16).astype(np.int64),
            window=events["clock"] // WINDOW_US,
            number=events["number"].astype(np.int64),
            answer=answer,
            row=np.cumsum(~answer) - 1,
        )
        out = np.empty((len(events) - int(np.count_nonzero(answer)), N_OPENED))
        busy = self._busy(found, six)
        if not len(busy):
            self._one_by_one(found, events, out)
            return out
        moves: list[tuple[int, Address]] = []
        taken = np.zeros(len(events), dtype=np.bool_)
        for at in busy:
            taken[at] = True
            moves += self._together(found.of(at), out)
        rest = (~taken).nonzero()[0]
        moves += self._one_by_one(found.of(rest), events[rest], out)
        # The order in which initiators would be forgotten: by the last flow each one opened.
        for _, initiator in sorted(moves, key=_first):
            self.windows.table.move_to_end(initiator)
        return out

    def _busy(self, events: _Events, six: Bool) -> list[Index]:
        """Return the events of each busy initiator, IPv4 alone; of none unless there is room for everybody."""
        n, windows = len(six), self.windows
        if n < _BUSY or windows.stored + 2 * n > windows.max_values:
            return []
        order = _sorted_by(events.initiator)
        initiator = events.initiator[order]
        start = np.concatenate(([0], (initiator[1:] != initiator[:-1]).nonzero()[0] + 1))
        if len(windows) + len(start) + int(np.count_nonzero(six)) > windows.max_initiators:
            return []
        end = np.append(start[1:], n)
        busy = (end - start >= _BUSY).nonzero()[0]
        runs = (order[low:high] for low, high in zip(start[busy].tolist(), end[busy].tolist(), strict=True))
        # The address 0 stands for IPv6 here as well.
        return [run for run in runs if not six[run].any()]

    def _one_by_one(self, events: _Events, given: npt.NDArray[np.void], out: F64) -> list[tuple[int, Address]]:
        """Note events singly; return the initiator of each opening with its row."""
        windows = self.windows
        rows: list[int] = []
        opened: list[Opened] = []
        sources: list[Address] = []
        six = given["is_v6"]
        long: dict[int, tuple[bytes, bytes]] = {}
        for i in six.nonzero()[0].tolist():
            pair = given["v6_words"][i].astype(">u8").tobytes()
            long[i] = (pair[16:], pair[:16]) if given["swapped"][i] else (pair[:16], pair[16:])
        for i, (initiator, responder, port, window, number, answer, row) in enumerate(
            zip(*(column.tolist() for column in events), strict=True)
        ):
            source, target = long.get(i) or (initiator, responder)
            if answer:
                windows.answer(source, number)
            else:
                rows.append(row)
                sources.append(source)
                opened.append(windows.open(source, target, port, window, number))
        if rows:
            out[rows] = opened
        return list(zip(rows, sources, strict=True))

    def _together(self, events: _Events, out: F64) -> list[tuple[int, Address]]:
        """Note the events of one initiator, for whom there is room; return its last opening's row with it."""
        initiator = int(events.initiator[0])
        opens = (~events.answer).nonzero()[0]
        before = int(opens[0]) if len(opens) else len(events.answer)
        for number in events.number[:before].tolist():
            self.windows.answer(initiator, number)
        if not len(opens):
            return []
        window = events.window[opens]
        start = opens[np.concatenate(([0], (window[1:] != window[:-1]).nonzero()[0] + 1))]
        for low, high in zip(start.tolist(), [*start[1:].tolist(), len(events.answer)], strict=True):
            run = events.of(slice(low, high))
            entry = self.windows.entry(initiator, int(run.window[0]), int(run.number[0]))
            self.windows.stored += _note_window(entry, run, out)
        return [(int(events.row[opens[-1]]), initiator)]


def _note_window(entry: Initiator, events: _Events, out: F64) -> int:
    """Note events of one window, the first of them an opening; return by how many the stored values grew."""
    opens = (~events.answer).nonzero()[0]
    rows = events.row[opens]
    n = len(opens)
    numbers = np.arange(n)
    columns = np.empty((N_OPENED, n))
    columns[0] = entry.flows + entry.flows_last + 1 + numbers
    entry.flows += n
    columns[3] = entry.failed + entry.failed_last + numbers
    entry.failed += n
    if n < len(events.answer):
        answered = np.where(events.answer, events.number, -1)
        columns[3] -= np.cumsum(answered >= entry.since_last)[opens]
        for number in answered[answered >= 0].tolist():
            entry.answer(number)
    peers = _note(entry.peers, events.responder[opens], np.ones(n, dtype=np.bool_))
    columns[1], columns[5] = peers.both, peers.entropy_bits
    fresh = [i for i, peer in peers.fresh if not entry.knows(peer)]
    columns[4] = entry.new + np.searchsorted(fresh, numbers, side="right")
    entry.new += len(fresh)
    port = events.port[opens]
    ports = _note(entry.ports, port, port != 0)
    columns[2], columns[6] = ports.both, ports.entropy_bits
    for place in (1, 2, 4):
        np.minimum(columns[place], SATURATION, out=columns[place])
    out[rows] = columns.T
    return peers.grown + ports.grown


class _Noted(NamedTuple):
    """What values made of their ``Distinct``, with each of them, and which were new to both windows."""

    both: I64
    entropy_bits: F64
    fresh: list[tuple[int, int]]
    grown: int


def _note(distinct: Distinct, values: I64, given: Bool) -> _Noted:
    """Note those values of one window that are ``given``; the others leave things as they were."""
    if len(distinct.current) >= SATURATION:
        given &= _may_be_in(distinct.current, values)
    at = given.nonzero()[0]
    n = len(values)
    if len(at) == n:
        return _note_values(distinct, values)
    both, bits = np.full(n, distinct.both), np.full(n, distinct.entropy_bits())
    if not len(at):
        return _Noted(both, bits, [], 0)
    noted = _note_values(distinct, values[at])
    first = int(at[0])
    so_far = np.cumsum(given[first:]) - 1
    both[first:], bits[first:] = noted.both[so_far], noted.entropy_bits[so_far]
    return _Noted(both, bits, [(int(at[i]), value) for i, value in noted.fresh], noted.grown)


def _may_be_in(known: dict[Address, int], values: I64) -> Bool:
    """Return False for most of the values that are not known, and True for the others."""
    marks = np.zeros(1 << 16, dtype=np.bool_)
    marks[_folded(np.fromiter(known, dtype=np.int64, count=len(known)))] = True
    found: Bool = marks[_folded(values)]
    return found


def _folded(values: I64) -> I64:
    return (values ^ values >> 16) & 0xFFFF


def _note_values(distinct: Distinct, values: I64) -> _Noted:
    """Note values of one window."""
    n = len(values)
    if distinct.counted + n > MOST_COUNTED:
        return _note_singly(distinct, values)
    order = _sorted_by(values)
    ordered = values[order]
    start = np.concatenate(([0], (ordered[1:] != ordered[:-1]).nonzero()[0] + 1))
    sizes = np.diff(np.append(start, n))
    different, first = ordered[start], order[start]
    here, before = _counts(distinct.current, different, -1), _counts(distinct.last, different, 0)
    room = SATURATION - len(distinct.current)
    unknown = (here < 0).nonzero()[0]
    unknown = unknown[np.argsort(first[unknown])]
    stored, left_out = unknown[:room], unknown[room:]
    known = (here >= 0).nonzero()[0]
    here[stored] = 0
    counted_before = distinct.counted + distinct.counted_last
    table = weights(counted_before + n)
    of_value = np.arange(n) + np.repeat(here + before - start, sizes)
    grows = table[of_value + 1] - table[of_value]
    flows = np.ones(n, dtype=np.int64)
    if len(left_out):
        kept = np.repeat(here >= 0, sizes)
        grows[~kept] = 0
        flows[order] = kept
    weight = np.empty(n, dtype=np.int64)
    weight[order] = grows
    np.cumsum(weight, out=weight)
    weight += distinct.weight
    counted = counted_before + np.cumsum(flows)
    fresh = stored[[value not in distinct.last for value in different[stored].tolist()]]
    both = distinct.both + np.searchsorted(first[fresh], np.arange(n), side="right")
    bits = (table[counted] - weight) / (np.maximum(counted, 1) * UNIT)

    distinct.both = int(both[-1])
    distinct.weight = int(weight[-1])
    distinct.counted = int(counted[-1]) - distinct.counted_last
    # Known ones keep their places in the order of first flows; those behind are stored in that order.
    for at in (known, stored):
        for value, count in zip(different[at].tolist(), (here[at] + sizes[at]).tolist(), strict=True):
            distinct.current[value] = count
    return _Noted(both, bits, list(zip(first[fresh].tolist(), different[fresh].tolist(), strict=True)), len(stored))


def _note_singly(distinct: Distinct, values: I64) -> _Noted:
    """Note values of a window in which not all flows count any more."""
    both, bits = np.empty(len(values), dtype=np.int64), np.empty(len(values))
    fresh, grown = [], 0
    for i, value in enumerate(values.tolist()):
        distinct_before = distinct.both
        grown += distinct.add(value)
        both[i], bits[i] = distinct.both, distinct.entropy_bits()
        if distinct.both > distinct_before:
            fresh.append((i, value))
    return _Noted(both, bits, fresh, grown)


def _counts(counts: dict[Address, int], different: I64, missing: int) -> I64:
    """Return the counts of sorted, different values; ``missing`` for those that have none."""
    if len(different) <= len(counts):
        return np.array([counts.get(value, missing) for value in different.tolist()], dtype=np.int64)
    out = np.full(len(different), missing, dtype=np.int64)
    if counts:
        known = np.fromiter(counts, dtype=np.int64, count=len(counts))
        at = np.minimum(np.searchsorted(different, known), len(different) - 1)
        hit = different[at] == known
        out[at[hit]] = np.fromiter(counts.values(), dtype=np.int64, count=len(counts))[hit]
    return out


def _sorted_by(values: I64) -> Index:
    """Return a stable order of values below 2**32, by radix."""
    if (values == values[0]).all():
        return np.arange(len(values))
    order = np.argsort(values.astype(np.uint16), kind="stable")
    high = (values >> 16).astype(np.uint16)
    if high.any():
        order = order[np.argsort(high[order], kind="stable")]
    return order
