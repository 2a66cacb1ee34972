"""When a plan must not be carried out as a whole, because flows of different keys get in each other's way."""

import numpy as np
import numpy.typing as npt

from device_agent.flows.columnar.cut import Plan
from device_agent.flows.columnar.flows import FlowTable, Rows
from device_agent.flows.columnar.sequence import OPENS, TRAILING_US
from device_agent.flows.packets import TCP
from device_agent.flows.records import EndReason

I64 = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]

_SECOND_US = 1_000_000
_NO_ROWS = np.zeros(0, dtype=np.int32)


class Limits:
    """The bounds of the table, and the checks of a plan against them.

    Parameters
    ----------
    table
        The live flows.
    max_flows
        Live flows at most, and remembered TCP ends at most.
    """

    def __init__(self, table: FlowTable, max_flows: int) -> None:
        self._table = table
        self._max = max_flows

    def near(self, n_packets: int) -> bool:
        """Whether so many packets might fill the table."""
        return max(self._table.n_live, self._table.n_ended) + n_packets > self._max

    def exceeded(self, plan: Plan) -> bool:
        """Whether a plan opens or ends more flows than there is room for."""
        n_ends = int(np.count_nonzero(plan.after == EndReason.TCP_END))
        return self._table.n_live + plan.openings() > self._max or self._table.n_ended + n_ends > self._max

    @staticmethod
    def ticks(clock: I64, low: int, high: int) -> Index:
        """Return the packets of a range, but for its first one, at which the clock begins another second."""
        seconds = clock[low:high] // _SECOND_US
        return (seconds[1:] != seconds[:-1]).nonzero()[0] + low + 1

    def suspect(self, plan: Plan, time: I64, clock: I64, idle_us: int) -> int | None:
        """Return the first packet that may come behind a tick which has closed its flow, if there is one.

        Such a packet is older than the packet clock. It opens a new flow although it is not idle by its own time.
        """
        table, start = self._table, plan.start
        raw, tick = time[plan.at], clock[plan.at] - clock[plan.at] % _SECOND_US
        late = raw < tick
        if not late.any():
            return None
        sizes = np.diff(np.append(start, len(raw)))
        earliest = np.minimum.reduceat(raw, start)
        earliest = np.where(plan.live, np.minimum(earliest, table.last[plan.row]), earliest)
        ended = table.ended[plan.row]
        earliest_end = np.where(ended >= 0, np.minimum(earliest, ended), earliest)
        tcp = (table.keys.key_1[plan.row] & np.uint64(0xFF)) == TCP
        found = late & (np.repeat(earliest, sizes) <= tick - idle_us)
        found |= late & np.repeat(tcp, sizes) & (np.repeat(earliest_end, sizes) <= tick - TRAILING_US)
        at = plan.at[found]
        at = at[at > plan.at.min()]
        return int(at.min()) if len(at) else None

    def victims(self, plan: Plan, low: int, high: int) -> tuple[Rows, Rows, int | None]:
        """Return which flows a plan pushes out and which TCP ends it makes forgotten.

        The range must not have a tick behind its first packet.

        Returns
        -------
        Rows, Rows
            Rows of flows and of TCP ends, oldest first.
        int or None
            If the plan does not hold: the packet to split before.
        """
        middle = (low + high) // 2 if high - low > 1 else None
        if middle is not None and (plan.stored or (plan.after == EndReason.IDLE).any()):
            return _NO_ROWS, _NO_ROWS, middle
        ends = plan.after == EndReason.TCP_END
        closes = (plan.before == EndReason.IDLE) | (plan.before == EndReason.TCP_END)
        pushed = self._pushed(self._table.n_live, plan.at[closes], plan.at[plan.does == OPENS], plan.at[ends])
        forgot = self._pushed(self._table.n_ended, plan.at[plan.forgets], _NO_ROWS, plan.at[ends])
        evicted, conflict = self._evicted(plan, pushed, middle)
        if conflict is not None:
            return _NO_ROWS, _NO_ROWS, conflict
        forgotten, conflict = self._forgotten(plan, len(forgot), middle)
        return evicted, forgotten, conflict

    def _pushed(self, before: int, downs: Index, opens: Index | Rows, ends: Index) -> Index:
        """Return the packets at which something old has to go.

        Within a packet an earlier flow is closed first, then one is opened, then it may end. Opens (or, without any,
        ends) are what needs room.
        """
        rises_with_ends = not len(opens) and opens is _NO_ROWS
        at = np.concatenate((downs * 4, opens * 4 + 1, ends * 4 + 2))
        up = np.concatenate(
            (np.full(len(downs), -1), np.ones(len(opens), int), np.full(len(ends), 1 if rises_with_ends else -1))
        )
        order = np.argsort(at)
        level = before + np.cumsum(up[order]) - self._max
        reached = np.maximum.accumulate(np.maximum(level, 0))
        return at[order[(np.diff(reached, prepend=0)).nonzero()[0]]] // 4

    def _evicted(self, plan: Plan, pushed: Index, middle: int | None) -> tuple[Rows, int | None]:
        n = len(pushed)
        if not n:
            return _NO_ROWS, None
        touched = np.full(len(self._table.live), -1)
        touched[plan.row[plan.live]] = plan.at[plan.start[plan.live]]
        queue = self._table.oldest(n + int(np.count_nonzero(plan.live)))
        first_touch = touched[queue]
        alone = first_touch < 0
        # A flow of the queue that has packets here is safe if they come before its turn to go.
        turn = np.cumsum(alone)
        in_danger = (~alone & (turn < n)).nonzero()[0]
        conflicts = first_touch[in_danger][pushed[turn[in_danger]] < first_touch[in_danger]]
        if len(conflicts):
            return _NO_ROWS, int(conflicts.min())
        victims = queue[alone][:n]
        if len(victims) < n:
            if middle is None:
                raise AssertionError("a packet that opens a flow in a full table finds none to push out")
            return _NO_ROWS, middle
        return victims, None

    def _forgotten(self, plan: Plan, n: int, middle: int | None) -> tuple[Rows, int | None]:
        if not n:
            return _NO_ROWS, None
        table = self._table
        known = np.zeros(len(table.live), dtype=np.bool_)
        known[plan.row] = table.ended[plan.row] >= 0
        oldest = table.oldest_ends(n)
        if middle is None:
            own = known[oldest]
            return (table.oldest_ends(n + 1)[1:] if own.any() else oldest), None
        return (_NO_ROWS, middle) if len(oldest) < n or known[oldest].any() else (oldest, None)
