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


@dataclass(slots=True, eq=False)
class Parts:
    """Parts of flows that packets of a plan belong to.

    A *flow* here is a run of parts of one opening; its first part may continue one of the table.

    Attributes
    ----------
    at
        Positions within the parsed columns of the packets that enter a flow, sorted as in the plan.
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
        Position within the parsed columns of the packet that closed each part.
    before
        Why the part of the table was closed before each part, likewise.
    """

    at: Index
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
    at, time, does, before, after, start = plan.at, plan.time, plan.does, plan.before, plan.after, plan.start
    key_row = plan.row
    if plan.dropped:
        kept = does != DROPPED
        sizes = np.add.reduceat(kept, start, dtype=np.intp)
        at, time, does, before, after = at[kept], time[kept], does[kept], before[kept], after[kept]
        key_row, sizes = key_row[sizes > 0], sizes[sizes > 0]
        start = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    n = len(at)
    begins = (does == OPENS) | (does == NEXT_PART)
    begins[start] = True
    begin = np.flatnonzero(begins)
    end = np.append(begin[1:], n)
    of_key = np.searchsorted(start, begin, side="right") - 1
    first_of_key = begin == start[of_key]
    part_does, part_before = does[begin], before[begin]
    reason = after[end - 1]
    closed_by = at[end - 1]
    followed = ~first_of_key[1:]
    by_next = np.flatnonzero(followed & (part_before[1:] != NO_REASON))
    reason[by_next] = part_before[by_next + 1]
    closed_by[by_next] = at[begin[by_next + 1]]
    opened = part_does == OPENS
    heads = opened | first_of_key
    return Parts(
        at=at,
        time=time,
        begin=begin,
        end=end,
        row=key_row[of_key],
        flow=np.cumsum(heads) - 1,
        first_part=np.flatnonzero(heads),
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
    first = parts.at[parts.begin[parts.first_part]]
    reverse = ((packets.flags[first] & (SYN | ACK)) == SYN | ACK) & ~packets.symmetric[first]
    swapped = np.where(parts.opened, packets.swapped[first] ^ reverse, old["swapped"])
    flows["swapped"] = swapped[parts.flow]
    _number(flows, parts, old)
    forward = packets.swapped[parts.at] == np.repeat(flows["swapped"], parts.end - parts.begin)
    forward |= packets.symmetric[parts.at]
    flags = packets.flags[parts.at]
    _count(flows, parts, packets, forward, flags, old)
    _windows(flows, parts, packets, forward, old)
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
) -> None:
    """Fill sums, extremes and times; parts that continue take over what the table has."""
    continued = np.flatnonzero(parts.continues)
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
    side_begin = np.flatnonzero(np.concatenate(([True], lane[1:] != lane[:-1])))
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
        linked = np.flatnonzero(of_old[part] >= 0)
        link, link_side = of_old[part[linked]], side[linked]
        began = earlier["sums"][link, link_side, 0] != 0
        linked = linked[began]
        gap[side_begin[linked]] = time[side_begin[linked]] - earlier["side_last"][link[began], link_side[began]]
    sorted_at = parts.at[by_side]
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


def _windows(
    flows: npt.NDArray[np.void], parts: Parts, packets: Packets, forward: Bool, old: npt.NDArray[np.void]
) -> None:
    """Fill the first TCP window of each direction; a later part has those of its flow."""
    first = parts.at[parts.begin[parts.first_part]]
    has_tcp = np.where(parts.opened, packets.has_tcp[first], (old["tcp"] & st.HAS_TCP) != 0)
    flows["tcp"] = np.where(has_tcp, st.HAS_TCP, 0)[parts.flow]
    if not has_tcp.any():
        return
    flow_of_packet = np.repeat(parts.flow, parts.end - parts.begin)
    far = len(parts.at)
    for side, mine in ((0, forward), (1, ~forward)):
        which = np.flatnonzero(mine & has_tcp[flow_of_packet])[::-1]
        seen = np.full(len(has_tcp), far)
        seen[flow_of_packet[which]] = which
        window = np.append(packets.window[parts.at], 0).astype(np.int32)[seen]
        stored = np.where(parts.opened, -1, old["window"][:, side])
        window = np.where(stored >= 0, stored, np.where(seen < far, window, -1))
        known = (stored >= 0)[parts.flow] | (seen[parts.flow] < parts.end)
        flows["window"][:, side] = np.where(known, window[parts.flow], -1)


def _tcp(
    flows: npt.NDArray[np.void],
    parts: Parts,
    packets: Packets,
    forward: Bool,
    flags: npt.NDArray[np.uint8],
    old: npt.NDArray[np.void],
) -> None:
    """Fill handshake, FINs and sequence numbers as they stand at the end of each part."""
    if not flows["tcp"].any():
        return
    n_flows, far = len(parts.first_part), len(parts.at)
    bits = np.where(parts.opened, 0, old["tcp"])
    flow_of_packet = np.repeat(parts.flow, parts.end - parts.begin)
    within_tcp = np.repeat(flows["tcp"] != 0, parts.end - parts.begin)
    syn_ack = flags & (SYN | ACK)

    def first_where(which: Bool, known: Bool) -> I64:
        """Return the first such packet of each flow, -1 where the table knows of one, ``far`` without."""
        seen = np.full(n_flows, far)
        at = np.flatnonzero(which & within_tcp)[::-1]
        seen[flow_of_packet[at]] = at
        seen[known] = -1
        return seen

    positions = np.arange(far)
    handshake = bits & st.HANDSHAKE
    asked = first_where((syn_ack == SYN) & forward, handshake >= 1)
    granted = first_where(
        (syn_ack == SYN | ACK) & ~forward & (positions > asked[flow_of_packet]), handshake >= 2
    )
    done = first_where((syn_ack == ACK) & forward & (positions > granted[flow_of_packet]), handshake >= 3)
    answered = first_where(syn_ack != SYN, (bits & st.ANSWERED) != 0)
    fin = (flags & FIN) != 0
    fin_forward = first_where(fin & forward, (bits & st.FIN_FORWARD) != 0)
    fin_backward = first_where(fin & ~forward, (bits & st.FIN_BACKWARD) != 0)
    second = np.maximum(fin_forward, fin_backward)
    closed_forward = np.where(second < 0, (bits & st.CLOSED_FORWARD) != 0, fin_forward > fin_backward)
    flow, end = parts.flow, parts.end
    state = flows["tcp"].copy()
    for seen in (asked, granted, done):
        state += seen[flow] < end
    state |= np.where(answered[flow] < end, st.ANSWERED, 0).astype(np.uint8)
    state |= np.where(fin_forward[flow] < end, st.FIN_FORWARD, 0).astype(np.uint8)
    state |= np.where(fin_backward[flow] < end, st.FIN_BACKWARD, 0).astype(np.uint8)
    state |= np.where(closed_forward[flow], st.CLOSED_FORWARD, 0).astype(np.uint8)
    flows["tcp"] = np.where(flows["tcp"] != 0, state, 0)
    isn = np.where(parts.opened, -1, old["isn"])
    at = np.flatnonzero((syn_ack == SYN) & forward & within_tcp)
    isn[flow_of_packet[at]] = packets.seq[parts.at[at]]
    flows["isn"] = isn[flow]


def reasons(parts: Parts) -> Index:
    """Return the parts that were closed."""
    return np.flatnonzero(parts.reason != NO_REASON)


def ends(parts: Parts) -> Index:
    """Return the parts that TCP ended."""
    own = parts.at[parts.end - 1] == parts.closed_by
    return np.flatnonzero((parts.reason == EndReason.TCP_END) & own)
