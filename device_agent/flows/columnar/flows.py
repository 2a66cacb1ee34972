"""The live flows: their keys, their counters and the order in which they would be given up."""

import numpy as np
import numpy.typing as npt

from device_agent.flows.columnar.state import FLOW, NONE
from device_agent.flows.columnar.table import KeyTable, extended

I64 = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]

_FEW = 200
_MOST_RESERVED = 131_072
"""Rows of counters, 63 MB if all are touched."""


class FlowTable:
    """Columns by row of the key table.

    A row belongs to a key from its first packet until neither a live flow nor a recent TCP end is known for it.

    Parameters
    ----------
    keys
        Keys to rows; the table follows it in size.
    most_rows
        Rows for which space is set aside.

    Attributes
    ----------
    keys
        As given.
    flows
        Counters, structured as ``state.FLOW``; meaningless where not ``live``.
    live
        Whether the key has a live flow.
    last
        Time of its last packet in microseconds; ``NONE`` where not live.
    turn
        Number of its last packet: the order of the live flows by how long they are without packets.
    ended
        Time of the key's last TCP end in microseconds, -1 for none.
    ended_turn
        Number of the packet that ended it.
    n_live, n_ended
        How many there are of each.
    """

    def __init__(self, keys: KeyTable, most_rows: int) -> None:
        self.keys = keys
        n = keys.capacity
        # Untouched pages of zeros take no memory, and a table that grows within them is not copied.
        self._reserved = np.zeros(max(min(most_rows, _MOST_RESERVED), n), dtype=FLOW)
        self.flows = self._reserved[:n]
        self.live = np.zeros(n, dtype=np.bool_)
        self.last = np.full(n, NONE, dtype=np.int64)
        self.turn = np.zeros(n, dtype=np.int64)
        self.ended = np.full(n, -1, dtype=np.int64)
        self.ended_turn = np.zeros(n, dtype=np.int64)
        self.n_live = 0
        self.n_ended = 0
        self._touched: list[Rows] = []

    def fit(self) -> None:
        """Follow the key table in size."""
        old, new = len(self.live), self.keys.capacity
        if new == old:
            return
        self.flows = self._reserved[:new] if new <= len(self._reserved) else extended(self.flows, new)
        self.live = extended(self.live, new)
        self.last, self.turn = extended(self.last, new), extended(self.turn, new)
        self.ended, self.ended_turn = extended(self.ended, new), extended(self.ended_turn, new)
        self.last[old:] = NONE
        self.ended[old:] = -1

    def close(self, rows: Rows) -> npt.NDArray[np.void]:
        """End live flows, each row given once, and return their counters with their keys."""
        closed = self.copy(rows)
        self.live[rows] = False
        self.last[rows] = NONE
        self.n_live -= len(rows)
        self._touched.append(rows)
        return closed

    def copy(self, rows: Rows) -> npt.NDArray[np.void]:
        """Return the counters of rows with their keys."""
        flows = self.flows.take(rows)
        self.label(flows, rows)
        return flows

    def label(self, flows: npt.NDArray[np.void], rows: Rows) -> None:
        """Write the keys of rows into flows."""
        keys = self.keys
        flows["key_0"], flows["key_1"] = keys.key_0[rows], keys.key_1[rows]
        is_v6 = keys.is_v6[rows]
        flows["is_v6"] = is_v6
        six = is_v6.nonzero()[0]
        if len(six):
            flows["v6_words"][six] = keys.v6_words[rows[six]]

    def forget_ends(self, rows: Rows) -> None:
        """Forget the TCP ends of rows, each given once."""
        self.n_ended -= int(np.count_nonzero(self.ended[rows] >= 0))
        self.ended[rows] = -1
        self._touched.append(rows)

    def idle(self, before_us: int) -> Rows:
        """Return the live flows that a clock closes, longest without packets first.

        They are those at the head of the order whose last packet is not after ``before_us``: one younger flow keeps
        what is behind it in place, as packet times may go back a little.
        """
        return _head(self.last <= before_us, self.live, self.turn)

    def stale_ends(self, before_us: int) -> Rows:
        """Return the TCP ends that a clock forgets, as in ``idle``."""
        known = self.ended >= 0
        return _head(known & (self.ended <= before_us), known, self.ended_turn)

    def oldest(self, n: int) -> Rows:
        """Return the ``n`` live flows without packets for longest, in order."""
        return _first(self.live.nonzero()[0], self.turn, n)

    def oldest_ends(self, n: int) -> Rows:
        """Return the ``n`` oldest TCP ends, in order."""
        return _first((self.ended >= 0).nonzero()[0], self.ended_turn, n)

    def touch(self, rows: Rows) -> None:
        """Note rows that may have become free."""
        self._touched.append(rows)

    def sweep(self) -> None:
        """Release the keys of touched rows that have neither a live flow nor a TCP end."""
        if not self._touched:
            return
        rows = np.concatenate(self._touched)
        self._touched = []
        rows = rows[~self.live[rows] & (self.ended[rows] < 0)]
        if len(rows) > _FEW:
            marks = np.zeros(len(self.live), dtype=np.bool_)
            marks[rows] = True
            self.keys.release(marks.nonzero()[0].astype(np.int32))
        elif len(rows):
            self.keys.release(np.array(sorted(set(rows.tolist())), dtype=np.int32))


def _head(due: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_], turns: I64) -> Rows:
    rows = due.nonzero()[0]
    if len(rows):
        kept = turns[known & ~due]
        if len(kept):
            rows = rows[turns[rows] < kept.min()]
    return _in_order(rows, turns)


def _first(rows: npt.NDArray[np.intp], turns: I64, n: int) -> Rows:
    if n < len(rows):
        rows = rows[np.argpartition(turns[rows], n - 1)[:n]] if n else rows[:0]
    return _in_order(rows, turns)


def _in_order(rows: npt.NDArray[np.intp], turns: I64) -> Rows:
    order: Rows = rows[np.argsort(turns[rows])].astype(np.int32)
    return order
