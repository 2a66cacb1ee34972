"""Where flows begin and end among the packets of a batch, for all keys at once.

Nothing is changed here: the plan says what would happen, and the engine decides whether it may (see ``engine.py``).
Most keys of a batch meet no end or one, and are settled by comparing columns. The rest go through ``sequence.walk``.

Longer than most for its cases, which all look at the same columns of the plan.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.flows.columnar import state as st
from device_agent.flows.columnar.flows import FlowTable
from device_agent.flows.columnar.parse import Packets
from device_agent.flows.columnar.sequence import (
    DROPPED,
    NEXT_PART,
    NO_REASON,
    OPENS,
    TRAILING_US,
    KeyState,
    walk,
)
from device_agent.flows.packets import ACK, FIN, RST, SYN, TCP
from device_agent.flows.records import EndReason

Index = npt.NDArray[np.intp]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_EVENTS = FIN | SYN | RST


@dataclass(slots=True, eq=False)
class Plan:
    """What the packets of a range do, sorted by key, in order of time within a key.

    Attributes
    ----------
    packets
        The columns planned for.
    at
        Numbers of the packets: the order in which they came.
    place
        Their positions in the batch, for the columns of ``Packets``.
    time
        Their times in microseconds, never going back within a flow.
    does, before, after
        As in ``sequence.Walk``.
    forgets
        Positions (in these columns) of packets that make an end of an earlier TCP end.
    stored
        Keys whose live flow is closed although none of their packets enters a flow, with the reason.
    start
        First packet of each key.
    row
        Row of each key.
    live
        Whether the key has a live flow before its first packet.
    dropped
        Whether any packet is ``DROPPED``.
    """

    packets: Packets
    at: Index
    place: Index
    time: I64
    does: npt.NDArray[np.uint8]
    before: npt.NDArray[np.int8]
    after: npt.NDArray[np.int8]
    forgets: Index
    stored: list[tuple[int, int]]
    start: Index
    row: npt.NDArray[np.int32]
    live: Bool
    dropped: bool

    def openings(self) -> int:
        """Return how many flows would be opened."""
        return int(np.count_nonzero(self.does == OPENS))


class Cutter:
    """Makes plans.

    Parameters
    ----------
    table
        The live flows, read only.
    idle_us, active_us
        Timeouts.
    """

    def __init__(self, table: FlowTable, idle_us: int, active_us: int) -> None:
        self._table = table
        self._idle_us = idle_us
        self._active_us = active_us

    def plan(self, packets: Packets, rows: npt.NDArray[np.int32], time: I64, low: int, high: int) -> Plan:
        """Return what the packets ``low`` to ``high`` (exclusive) do.

        Parameters
        ----------
        packets
            Parsed columns.
        rows
            Row of each packet's key.
        time
            Time of each packet, microseconds.
        low, high
            The range, at least one packet.
        """
        table = self._table
        order = _by_row(rows[low:high], table.keys.capacity)
        at = order + low if low else order
        row, at_time = rows[at], time[at]
        start = (np.concatenate(([True], row[1:] != row[:-1]))).nonzero()[0]
        key_row = row[start]
        n, live = len(at), table.live[key_row]
        plan = Plan(
            packets=packets,
            at=at,
            place=packets.at[at],
            time=at_time,
            does=np.zeros(n, dtype=np.uint8),
            before=np.full(n, NO_REASON, dtype=np.int8),
            after=np.full(n, NO_REASON, dtype=np.int8),
            forgets=np.zeros(0, dtype=np.intp),
            stored=[],
            start=start,
            row=key_row,
            live=live,
            dropped=False,
        )
        plan.does[start[~live]] = OPENS
        _Cut(plan, packets, table, self._idle_us, self._active_us).run()
        return plan

    def plan_without_flow(self, plan: Plan, time: I64, keys: Index) -> None:
        """Change a plan to what it is if the flows of some keys are gone before their first packets."""
        plan.live[keys] = False
        for key in keys:
            low, high = plan.start[key], plan.start[key + 1] if key + 1 < len(plan.start) else len(plan.at)
            plan.time[low:high] = time[plan.at[low:high]]
            plan.forgets = plan.forgets[(plan.forgets < low) | (plan.forgets >= high)]
        _walk(plan, self._table, keys, self._idle_us, self._active_us)


def _by_row(rows: npt.NDArray[np.int32], capacity: int) -> Index:
    """Return a stable order by row. Keys of 16 bits are sorted by radix, in linear time."""
    if capacity > 1 << 16:
        place = np.empty(capacity, dtype=np.int32)
        positions = np.arange(len(rows), dtype=np.int32)
        place[rows] = positions
        last_of_row = rows[place[rows] == positions]
        place[last_of_row] = np.arange(len(last_of_row), dtype=np.int32)
        rows = place[rows]
    return np.argsort(rows.astype(np.uint16), kind="stable")


class _Cut:
    """One plan in the making."""

    def __init__(self, plan: Plan, packets: Packets, table: FlowTable, idle_us: int, active_us: int) -> None:
        self._plan, self._packets, self._table = plan, packets, table
        self._idle_us, self._active_us = idle_us, active_us
        n, start = len(plan.at), plan.start
        self._end = np.append(start[1:], n)
        self._gap = np.empty(n, dtype=np.int64)
        np.subtract(plan.time[1:], plan.time[:-1], out=self._gap[1:])
        last = table.last[plan.row]
        self._gap[start] = np.where(plan.live, plan.time[start] - last, 0)
        flows = table.flows
        self._first = np.where(plan.live, flows["first"][plan.row], plan.time[start])
        self._flags = packets.flags[plan.place]

    def run(self) -> None:
        """Settle all keys."""
        plan, start = self._plan, self._plan.start
        least_gap = np.minimum.reduceat(self._gap, start)
        idle = (self._gap >= self._idle_us).nonzero()[0]
        lasting = plan.time[self._end - 1] - self._first >= self._active_us
        tcp = (self._table.keys.key_1[plan.row] & np.uint64(0xFF)) == TCP
        walked = least_gap < 0
        if tcp.any():
            eventful, to_walk = self._tcp_keys(tcp)
            walked |= to_walk
            if eventful.any():
                if len(idle):
                    walked[self._key_of(idle)] |= eventful[self._key_of(idle)]
                walked |= eventful & lasting
                self._tcp_ends(eventful & ~walked, walked)
        if len(idle):
            self._cut_idle(idle, walked)
        if lasting.any():
            self._cut_active((lasting & ~walked).nonzero()[0])
        if walked.any():
            _walk(plan, self._table, walked.nonzero()[0], self._idle_us, self._active_us)

    def _key_of(self, at: Index) -> Index:
        return np.searchsorted(self._plan.start, at, side="right") - 1

    def _tcp_keys(self, tcp: Bool) -> tuple[Bool, Bool]:
        """Return the TCP keys that may meet an end by flags, and those that must be walked."""
        plan, table = self._plan, self._table
        flags = np.bitwise_or.reduceat(self._flags, plan.start)
        bits = table.flows["tcp"][plan.row]
        finishing = plan.live & ((bits & (st.FIN_FORWARD | st.FIN_BACKWARD)) != 0)
        eventful = tcp & (((flags & _EVENTS) != 0) | finishing)
        to_walk = tcp & (table.ended[plan.row] >= 0)
        known = plan.live & ((bits & st.HAS_TCP) != 0)
        headless = ~self._packets.has_tcp[plan.place] & np.repeat(tcp, self._end - plan.start)
        if headless.any():
            some, every = np.logical_or.reduceat(headless, plan.start), np.logical_and.reduceat(headless, plan.start)
            to_walk |= (some & (~every | known)) | (tcp & plan.live & ~known & ~every)
        else:
            to_walk |= tcp & plan.live & ~known
        return eventful, to_walk

    def _tcp_ends(self, eventful: Bool, walked: Bool) -> None:
        """Find the end of keys with at most one; mark the others in ``walked``."""
        plan, flags, start = self._plan, self._flags, self._plan.start
        packet_of = (np.repeat(eventful, self._end - start)).nonzero()[0]
        if not len(packet_of):
            return
        flag, key = flags[packet_of], self._key_of(packet_of)
        far = np.int64(len(flags))
        end = np.full(len(start), far)
        at = packet_of[(flag & RST) != 0]
        end[self._key_of(at)[::-1]] = at[::-1]
        np.minimum(end, self._fin_end(packet_of, flag, key, far), out=end)
        ended = (end < far).nonzero()[0]
        syn = packet_of[(flag & (SYN | ACK)) == SYN]
        if len(syn):
            # A SYN behind anything but SYNs may belong to another connection.
            of = self._key_of(syn)
            rank = np.arange(len(syn)) - np.searchsorted(of, of)
            answered = plan.live[of] & ((self._table.flows["tcp"][plan.row[of]] & st.ANSWERED) != 0)
            walked[of[answered | (syn - start[of] != rank) | (syn > end[of])]] = True
        last = self._end[ended] - 1
        walked[ended[plan.time[last] - plan.time[end[ended]] >= TRAILING_US]] = True
        ended = ended[~walked[ended]]
        plan.after[end[ended]] = EndReason.TCP_END
        trailed = ended[end[ended] < self._end[ended] - 1]
        for key_at in trailed:
            plan.does[end[key_at] + 1 : self._end[key_at]] = DROPPED
        plan.dropped |= len(trailed) > 0

    def _fin_end(self, packet_of: Index, flag: npt.NDArray[np.uint8], key: Index, far: np.int64) -> I64:
        """Return the ACK that answers the second FIN of each key; ``far`` without one."""
        plan, table = self._plan, self._table
        n_keys = len(plan.start)
        ends = np.full(n_keys, far)
        bits = table.flows["tcp"][plan.row]
        stored = plan.live & ((bits & (st.FIN_FORWARD | st.FIN_BACKWARD)) != 0)
        fin = (flag & FIN) != 0
        if not fin.any() and not stored.any():
            return ends
        forward_is = self.forward_is()
        packets = self._packets
        forward = packets.swapped[plan.place[packet_of]] == forward_is[key]
        forward |= packets.symmetric[plan.place[packet_of]]
        seen_f, seen_b = np.full(n_keys, far), np.full(n_keys, far)
        for seen, side, bit in ((seen_f, forward, st.FIN_FORWARD), (seen_b, ~forward, st.FIN_BACKWARD)):
            which = (fin & side).nonzero()[0][::-1]
            seen[key[which]] = packet_of[which]
            seen[stored & ((bits & bit) != 0)] = -1
        both = (seen_f < far) & (seen_b < far)
        second = np.maximum(seen_f, seen_b)
        closed_forward = np.where(second < 0, (bits & st.CLOSED_FORWARD) != 0, seen_f > seen_b)
        answers = (flag & (ACK | FIN | RST)) == ACK
        answers &= both[key] & (forward != closed_forward[key]) & (packet_of > second[key])
        which = answers.nonzero()[0][::-1]
        ends[key[which]] = packet_of[which]
        return ends

    def forward_is(self) -> Bool:
        """Return for each key whether the swapped packets are the forward ones, if its flow is not cut."""
        plan, packets = self._plan, self._packets
        first = plan.place[plan.start]
        reverse = ((packets.flags[first] & (SYN | ACK)) == SYN | ACK) & ~packets.symmetric[first]
        forward_is: Bool = np.where(plan.live, self._table.flows["swapped"][plan.row], packets.swapped[first] ^ reverse)
        return forward_is

    def _cut_idle(self, idle: Index, walked: Bool) -> None:
        plan = self._plan
        idle = idle[~walked[self._key_of(idle)]]
        plan.does[idle] = OPENS
        plan.before[idle] = EndReason.IDLE

    def _cut_active(self, keys: Index) -> None:
        """Cut lasting flows; each cut is one search in the times of its flow."""
        plan, active_us = self._plan, self._active_us
        for key in keys:
            low, high = int(plan.start[key]), int(self._end[key])
            bounds = [*(low + (plan.does[low + 1 : high] == OPENS).nonzero()[0] + 1).tolist(), high]
            first = int(plan.time[low]) if plan.does[low] == OPENS else int(self._first[key])
            for bound in bounds:
                at = low
                while (at := at + int(np.searchsorted(plan.time[at:bound], first + active_us))) < bound:
                    plan.does[at] = NEXT_PART
                    plan.before[at] = EndReason.ACTIVE
                    first = int(plan.time[at])
                if bound < high:
                    low, first = bound, int(plan.time[bound])


def _walk(plan: Plan, table: FlowTable, keys: Index, idle_us: int, active_us: int) -> None:
    """Plan keys packet by packet."""
    packets = plan.packets
    forgets: list[int] = []
    for key in keys:
        low, high = int(plan.start[key]), int(plan.start[key + 1]) if key + 1 < len(plan.start) else len(plan.at)
        place = plan.place[low:high]
        done = walk(
            plan.time[low:high].tolist(),
            packets.flags[place].tolist(),
            packets.seq[place].tolist(),
            packets.swapped[place].tolist(),
            packets.has_tcp[place].tolist(),
            symmetric=bool(packets.symmetric[place[0]]),
            state=key_state(table, int(plan.row[key]), live=bool(plan.live[key])),
            idle_us=idle_us,
            active_us=active_us,
        )
        plan.time[low:high] = done.time_us
        plan.does[low:high] = done.does
        plan.before[low:high] = done.before
        plan.after[low:high] = done.after
        plan.dropped |= DROPPED in done.does
        if done.stored != NO_REASON:
            plan.stored.append((int(key), done.stored))
        if True in done.forgets:
            forgets += [low + i for i, forget in enumerate(done.forgets) if forget]
    if forgets:
        plan.forgets = np.sort(np.concatenate((plan.forgets, np.array(forgets, dtype=np.intp))))


def key_state(table: FlowTable, row: int, *, live: bool) -> KeyState:
    """Return what the table knows of a key; without its flow unless ``live``."""
    flow = table.flows[row]
    bits = int(flow["tcp"])
    return KeyState(
        live=live,
        first_us=int(flow["first"]),
        last_us=int(table.last[row]),
        has_tcp=bool(bits & st.HAS_TCP),
        answered=bool(bits & st.ANSWERED),
        isn=int(flow["isn"]),
        fin_forward=bool(bits & st.FIN_FORWARD),
        fin_backward=bool(bits & st.FIN_BACKWARD),
        closed_forward=bool(bits & st.CLOSED_FORWARD),
        swapped=bool(flow["swapped"]),
        ended_us=int(table.ended[row]),
    )
