"""Packets of a plan to counters: one row per part of a flow, earlier packets of the flow included."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.flows.columnar import state as st
from device_agent.flows.columnar.cut import Plan
from device_agent.flows.columnar.flows import FlowTable
from device_agent.flows.columnar.parse import Packets
from device_agent.flows.columnar.sequence import DROPPED, NEXT_PART, NO_REASON, OPENS
from device_agent.flows.packets import ACK, FIN, SYN
from device_agent.flows.records import EndReason

Index = npt.NDArray[np.intp]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_LAST_PART = 0xFFFF
_FAR = np.int64(1 << 62)


@dataclass(slots=True, eq=False)
class Parts:
    """Parts of flows that packets of a plan belong to.

    A *flow* here is a run of parts of one opening; its first part may continue one of the table.

    Attributes
    ----------
    at, place
        Numbers and positions of the packets that enter a flow, sorted as in the plan.
    time
        Their times.
    begin, end
        First packet of each part and the one behind its last, indices into ``at``.
    row
        Row of each part's key.
    flow
        Which flow each part belongs to.
    first_part
        First part of each flow.
    opened
        Whether each flow was opened here, as opposed to continued from the table.
    continues
        Whether each part adds to a part of the table.
    reason
        Why each part was closed; ``NO_REASON`` if it was not.
    closed_by
        Number of the packet that closed each part.
    before
        Why the part of the table was closed before each part, likewise.
    """

    at: Index
    place: Index
    time: I64
    begin: Index
    end: Index
    row: npt.NDArray[np.int32]
    flow: Index
    first_part: Index
    opened: Bool
    continues: Bool
    reason: npt.NDArray[np.int8]
    closed_by: Index
    before: npt.NDArray[np.int8]


def split(plan: Plan) -> Parts:
    """Return the parts of a plan; it has at least one packet that enters a flow."""
    at, place, time, start = plan.at, plan.place, plan.time, plan.start
    does, before, after = plan.does, plan.before, plan.after
    key_row = plan.row
    if plan.dropped:
        kept = does != DROPPED
        sizes = np.add.reduceat(kept, start, dtype=np.intp)
        at, place, time = at[kept], place[kept], time[kept]
        does, before, after = does[kept], before[kept], after[kept]
        key_row, sizes = key_row[sizes > 0], sizes[sizes > 0]
        start = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    n = len(at)
    begins = (does == OPENS) | (does == NEXT_PART)
    begins[start] = True
    begin = begins.nonzero()[0]
    end = np.append(begin[1:], n)
    of_key = np.searchsorted(start, begin, side="right") - 1
    first_of_key = begin == start[of_key]
    part_does, part_before = does[begin], before[begin]
    reason = after[end - 1]
    closed_by = at[end - 1]
    followed = ~first_of_key[1:]
    by_next = (followed & (part_before[1:] != NO_REASON)).nonzero()[0]
    reason[by_next] = part_before[by_next + 1]
    closed_by[by_next] = at[begin[by_next + 1]]
    opened = part_does == OPENS
    heads = opened | first_of_key
    return Parts(
        at=at,
        place=place,
        time=time,
        begin=begin,
        end=end,
        row=key_row[of_key],
        flow=np.cumsum(heads) - 1,
        first_part=heads.nonzero()[0],
        opened=opened[heads],
        continues=heads & ~opened & (part_does != NEXT_PART),
        reason=reason,
        closed_by=closed_by,
        before=np.where(first_of_key, part_before, NO_REASON).astype(np.int8),
    )


def fold(parts: Parts, packets: Packets, table: FlowTable) -> npt.NDArray[np.void]:
    """Return the counters of each part, structured as ``state.FLOW``, the ``opened`` field left at 0."""
    old = table.flows[parts.row[parts.first_part]]
    flows = st.blank(len(parts.begin))
    first = parts.place[parts.begin[parts.first_part]]
    reverse = ((packets.flags[first] & (SYN | ACK)) == SYN | ACK) & ~packets.symmetric[first]
    swapped = np.where(parts.opened, packets.swapped[first] ^ reverse, old["swapped"])
    flows["swapped"] = swapped[parts.flow]
    _number(flows, parts, old)
    forward = packets.swapped[parts.place] == np.repeat(flows["swapped"], parts.end - parts.begin)
    forward |= packets.symmetric[parts.place]
    flags = packets.flags[parts.place]
    firsts = _count(flows, parts, packets, forward, flags, old)
    _first_windows(flows, parts, packets, old, firsts)
    _tcp(flows, parts, packets, forward, flags, old)
    return flows


def _number(flows: npt.NDArray[np.void], parts: Parts, old: npt.NDArray[np.void]) -> None:
    flows["first"] = parts.time[parts.begin]
    flows["last"] = parts.time[parts.end - 1]
    if len(parts.begin) == len(parts.first_part) and parts.opened.all():
        return
    base = np.where(parts.opened, 0, old["part"].astype(np.int64))
    base += ~parts.opened & ~parts.continues[parts.first_part]
    within = np.arange(len(parts.begin)) - parts.first_part[parts.flow]
    flows["part"] = np.minimum(base[parts.flow] + within, _LAST_PART)


def _count(
    flows: npt.NDArray[np.void],
    parts: Parts,
    packets: Packets,
    forward: Bool,
    flags: npt.NDArray[np.uint8],
    old: npt.NDArray[np.void],
) -> tuple[Index, Index, Index]:
    """Fill sums, extremes and times; parts that continue take over what the table has.

    Returns the parts and directions with packets, and the position of the first packet of each.
    """
    continued = parts.continues.nonzero()[0]
    earlier = old[parts.flow[continued]]
    time, begin = parts.time, parts.begin
    gap = np.empty(len(time), dtype=np.int64)
    np.subtract(time[1:], time[:-1], out=gap[1:])
    gap[begin] = st.NONE
    gap[begin[continued]] = time[begin[continued]] - earlier["last"]
    flows["gap_min"] = np.minimum.reduceat(gap, begin)
    gap[gap == st.NONE] = 0
    flows["gap_max"] = np.maximum.reduceat(gap, begin)
    squares = gap.view(np.uint64)
    flows["gap_squares"] = np.add.reduceat(squares * squares, begin)

    lane = np.repeat(np.arange(0, 2 * len(begin), 2, dtype=np.uint16), parts.end - begin)
    lane += ~forward
    by_side = np.argsort(lane, kind="stable")
    lane = lane[by_side]
    side_begin = (np.concatenate(([True], lane[1:] != lane[:-1]))).nonzero()[0]
    lane = lane[side_begin]
    part, side = (lane >> 1).astype(np.intp), (lane & 1).astype(np.intp)
    time = time[by_side]
    np.subtract(time[1:], time[:-1], out=gap[1:])
    gap[side_begin] = st.NONE
    flows["side_first"][part, side] = time[side_begin]
    flows["side_last"][part, side] = time[np.append(side_begin[1:], len(time)) - 1]
    if len(continued):
        of_old = np.full(len(begin), -1)
        of_old[continued] = np.arange(len(continued))
        linked = (of_old[part] >= 0).nonzero()[0]
        link, link_side = of_old[part[linked]], side[linked]
        began = earlier["sums"][link, link_side, 0] != 0
        linked = linked[began]
        gap[side_begin[linked]] = time[side_begin[linked]] - earlier["side_last"][link[began], link_side[began]]
    sorted_at = parts.place[by_side]
    extremes = np.stack([packets.ip_len[sorted_at], gap])
    flows["least"][part, side] = np.minimum.reduceat(extremes, side_begin, axis=1).T
    gap = extremes[1]
    gap[gap == st.NONE] = 0
    flows["greatest"][part, side] = np.maximum.reduceat(extremes, side_begin, axis=1).T
    summed = st.summands(extremes[0], packets.payload_len[sorted_at], gap, flags[by_side])
    flows["sums"][part, side] = np.add.reduceat(summed, side_begin, axis=1).T
    if len(continued):
        later = flows[continued]
        st.merge(later, earlier)
        flows[continued] = later
    return part, side, sorted_at[side_begin]


def _first_windows(
    flows: npt.NDArray[np.void],
    parts: Parts,
    packets: Packets,
    old: npt.NDArray[np.void],
    firsts: tuple[Index, Index, Index],
) -> None:
    """Fill the first TCP window of each direction; a later part has those of its flow.

    ``firsts``: the parts and directions with packets, and the first packet of each.
    """
    part, side, at = firsts
    head = parts.place[parts.begin[parts.first_part]]
    has_tcp = np.where(parts.opened, packets.has_tcp[head], (old["tcp"] & st.HAS_TCP) != 0)
    flows["tcp"] = np.where(has_tcp, st.HAS_TCP, 0)[parts.flow]
    flows["window"][part, side] = np.where(has_tcp[parts.flow[part]], packets.window[at].astype(np.int32), -1)
    first = parts.first_part
    known = ~parts.opened[:, None] & (old["window"] >= 0)
    flows["window"][first] = np.where(known, old["window"], flows["window"][first])
    if len(first) < len(flows):
        for later in np.setdiff1d(np.arange(len(flows)), first):
            before = flows["window"][later - 1]
            flows["window"][later] = np.where(before >= 0, before, flows["window"][later])


def _tcp(
    flows: npt.NDArray[np.void],
    parts: Parts,
    packets: Packets,
    forward: Bool,
    flags: npt.NDArray[np.uint8],
    old: npt.NDArray[np.void],
) -> None:
    """Fill handshake, FINs and sequence numbers as they stand at the end of each part."""
    is_tcp = flows["tcp"] != 0
    if not is_tcp.any():
        return
    bits = np.where(parts.opened, 0, old["tcp"]) & ~np.uint8(st.HAS_TCP)
    sizes = parts.end - parts.begin
    special = ((flags & (SYN | FIN)) != 0) & np.repeat(is_tcp, sizes)
    at = special.nonzero()[0]
    state = (bits & ~np.uint8(st.HANDSHAKE) | st.ANSWERED)[parts.flow]
    handshake = (bits & st.HANDSHAKE)[parts.flow]
    isn = np.where(parts.opened, -1, old["isn"])
    if len(at):
        few = _Few(at, parts.flow[np.searchsorted(parts.begin, at, side="right") - 1], flags[at], forward[at], bits)
        state = few.fins(state, parts)
        lone = (few.flags & (SYN | ACK)) == SYN
        n_lone = np.bincount(few.flow[lone], minlength=len(bits))
        n_all = np.add.reduceat(sizes, parts.first_part)
        silent = (n_lone == n_all) & ((bits & st.ANSWERED) == 0)
        state[silent[parts.flow]] &= ~np.uint8(st.ANSWERED)
        handshake = few.handshake(handshake, parts, forward, flags)
        sent = lone & few.forward
        isn[few.flow[sent]] = packets.seq[parts.place[at[sent]]]
    elif (((handshake == 1) | (handshake == 2)) & is_tcp).any():
        nothing = np.zeros(0, dtype=np.intp)
        few = _Few(nothing, nothing, flags[:0], forward[:0], bits)
        handshake = few.handshake(handshake, parts, forward, flags)
    flows["tcp"] = np.where(is_tcp, state | handshake | st.HAS_TCP, 0)
    flows["isn"] = isn[parts.flow]


@dataclass(slots=True, eq=False)
class _Few:
    """The packets with SYN or FIN of TCP flows: positions, flows, flags, directions; ``bits`` are the flows' earlier
    states.
    """

    at: Index
    flow: Index
    flags: npt.NDArray[np.uint8]
    forward: Bool
    bits: npt.NDArray[np.uint8]

    def first(self, which: Bool, known: Bool) -> I64:
        """Return the first such packet of each flow, -1 where the table knows of one, ``_FAR`` without."""
        seen = np.full(len(self.bits), _FAR)
        found = which.nonzero()[0][::-1]
        seen[self.flow[found]] = self.at[found]
        seen[known] = -1
        return seen

    def fins(self, state: npt.NDArray[np.uint8], parts: Parts) -> npt.NDArray[np.uint8]:
        """Add FINs to the states of parts; right for the last part of each flow, which is all that is asked for."""
        fin, bits = (self.flags & FIN) != 0, self.bits
        if not fin.any():
            return state
        forward = self.first(fin & self.forward, (bits & st.FIN_FORWARD) != 0)
        backward = self.first(fin & ~self.forward, (bits & st.FIN_BACKWARD) != 0)
        known = (forward < 0) & (backward < 0)
        closed_forward = np.where(known, (bits & st.CLOSED_FORWARD) != 0, forward > backward)
        new = np.where(forward < _FAR, st.FIN_FORWARD, 0) | np.where(backward < _FAR, st.FIN_BACKWARD, 0)
        new |= np.where(closed_forward, st.CLOSED_FORWARD, 0)
        kept = np.uint8(0xFF & ~(st.FIN_FORWARD | st.FIN_BACKWARD | st.CLOSED_FORWARD))
        merged: npt.NDArray[np.uint8] = (state & kept) | new.astype(np.uint8)[parts.flow]
        return merged

    def handshake(
        self, before: npt.NDArray[np.uint8], parts: Parts, forward: Bool, flags: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        """Return how far the handshake of each part's flow was at the end of the part."""
        had = self.bits & st.HANDSHAKE
        syn_ack = self.flags & (SYN | ACK)
        asked = self.first((syn_ack == SYN) & self.forward, had >= 1)
        answers = (syn_ack == SYN | ACK) & ~self.forward
        granted = self.first(answers & (self.at > asked[self.flow]), had >= 2)
        done = np.full(len(had), _FAR)
        done[had == 3] = -1
        open_flows = ((granted < _FAR) & (had < 3)).nonzero()[0]
        if len(open_flows):
            flow = np.repeat(parts.flow, parts.end - parts.begin)
            acks = (((flags & (SYN | ACK)) == ACK) & forward & (np.arange(len(flags)) > granted[flow])).nonzero()[0][
                ::-1
            ]
            done[flow[acks]] = acks
            done[had == 3] = -1
        del before
        reached = np.zeros(len(parts.flow), dtype=np.uint8)
        for seen in (asked, granted, done):
            reached += seen[parts.flow] < parts.end
        return reached


def reasons(parts: Parts) -> Index:
    """Return the parts that were closed."""
    return (parts.reason != NO_REASON).nonzero()[0]


def ends(parts: Parts) -> Index:
    """Return the parts that TCP ended."""
    own = parts.at[parts.end - 1] == parts.closed_by
    return ((parts.reason == EndReason.TCP_END) & own).nonzero()[0]
