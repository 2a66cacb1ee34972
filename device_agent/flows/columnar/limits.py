"""When a plan must not be carried out as a whole, because flows of different keys get in each other's way."""

import numpy as np
import numpy.typing as npt

from device_agent.flows.columnar.cut import Cutter, Plan
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
    cutter
        What makes the plans.
    max_flows
        Live flows at most, and remembered TCP ends at most.
    """

    def __init__(self, table: FlowTable, cutter: Cutter, max_flows: int) -> None:
        self._table = table
        self._cutter = cutter
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
        found: Index = (seconds[1:] != seconds[:-1]).nonzero()[0] + low + 1
        return found

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

    def victims(self, plan: Plan, time: I64, low: int, high: int) -> tuple[Rows, Rows, int | None]:
        """Return which flows a plan pushes out and which TCP ends it makes forgotten.

        A flow that is pushed out before its first packet in the range is planned anew, as a key without a flow.

        Parameters
        ----------
        plan
            Planned for the range, which must not have a tick behind its first packet. It may be changed, also if it
            turns out not to hold.
        time
            Times of all packets, microseconds.
        low, high
            The range.

        Returns
        -------
        Rows, Rows
            Rows of flows and of TCP ends, oldest first.
        int or None
            If the plan does not hold: the packet to split before.
        """
        middle = (low + high) // 2 if high - low > 1 else None
        evicted = self._evicted(plan, time, middle)
        forgotten = None if evicted is None else self._forgotten(plan, middle)
        if evicted is None or forgotten is None:
            return _NO_ROWS, _NO_ROWS, middle
        return evicted, forgotten, None

    def _evicted(self, plan: Plan, time: I64, middle: int | None) -> Rows | None:
        """Return the flows pushed out, oldest first; None if that cannot be told for the range as a whole."""
        pushed = self._pushes(plan)
        if not len(pushed):
            return _NO_ROWS
        table, touched = self._table, np.full(len(self._table.live), -1)
        keys = plan.live.nonzero()[0]
        touched[plan.row[keys]] = plan.at[plan.start[keys]]
        queue = table.oldest(len(pushed) + 2 * len(keys))
        while middle is None or not (plan.stored or (plan.after == EndReason.IDLE).any()):
            first_touch = touched[queue]
            alone = first_touch < 0
            # A flow of the queue that has packets here is safe if they come before its turn to go.
            turn = np.cumsum(alone)
            if not len(queue) or turn[-1] < len(pushed):
                break
            in_danger = (~alone & (turn < len(pushed))).nonzero()[0]
            # Only the first is certain: that one goes delays the turn of those behind it.
            lost = queue[in_danger[pushed[turn[in_danger]] < first_touch[in_danger]]][:1]
            if not len(lost):
                return queue[alone][: len(pushed)]
            touched[lost] = -1
            self._cutter.plan_without_flow(plan, time, np.isin(plan.row, lost).nonzero()[0])
            pushed = self._pushes(plan)
        return None

    def _pushes(self, plan: Plan) -> Index:
        """Return the packets, in order, at which the oldest flow has to go."""
        closes = (plan.before == EndReason.IDLE) | (plan.before == EndReason.TCP_END)
        ends, opens = plan.after == EndReason.TCP_END, plan.does == OPENS
        low, n = int(plan.at.min()), len(plan.at)
        # Within a packet an earlier flow is closed first, then one is opened, then it may end.
        change, ended = np.empty(n, dtype=np.int32), np.empty(n, dtype=np.int32)
        place = plan.at - low
        change[place], ended[place] = opens.view(np.int8) - closes.view(np.int8), ends
        change -= ended
        level = np.cumsum(change, dtype=np.int32)
        level += ended
        return _overflows(level, self._table.n_live - self._max) + low

    def _forgotten(self, plan: Plan, middle: int | None) -> Rows | None:
        """Return the TCP ends pushed out, oldest first; None if that cannot be told for the range as a whole."""
        table, low = self._table, int(plan.at.min())
        change = np.zeros(len(plan.at), dtype=np.int32)
        change[plan.at[plan.after == EndReason.TCP_END] - low] = 1
        # A packet may make an end of an earlier TCP end, then of its flow.
        change[plan.at[plan.forgets] - low] -= 1
        n = len(_overflows(np.cumsum(change, dtype=np.int32), table.n_ended - self._max))
        if not n:
            return _NO_ROWS
        known = np.zeros(len(table.live), dtype=np.bool_)
        known[plan.row] = table.ended[plan.row] >= 0
        if middle is None:
            oldest = table.oldest_ends(n + 1)
            return oldest[~known[oldest]][:n]
        oldest = table.oldest_ends(n)
        return None if len(oldest) < n or known[oldest].any() else oldest


def _overflows(level: npt.NDArray[np.int32], excess: int) -> Index:
    """Return where a level has to be pushed down to 0 that goes up by one at most; it begins at ``excess <= 0``."""
    level += np.int32(excess)
    np.maximum(level, 0, out=level)
    np.maximum.accumulate(level, out=level)
    rises = np.empty(len(level), dtype=np.bool_)
    rises[0] = level[0] > 0
    np.not_equal(level[1:], level[:-1], out=rises[1:])
    found: Index = rises.nonzero()[0]
    return found
