"""Packets of a plan to counters: one row per part of a flow, earlier packets of the flow included."""

import numpy as np
import numpy.typing as npt

from device_agent.flows.columnar import state as st
from device_agent.flows.columnar.cut import Plan
from device_agent.flows.columnar.flows import FlowTable
from device_agent.flows.columnar.parse import Packets
from device_agent.flows.columnar.parts import Parts, Sorted
from device_agent.flows.columnar.retransmissions import fold_retransmissions
from device_agent.flows.columnar.sequence import DROPPED, NEXT_PART, NO_REASON, OPENS
from device_agent.flows.columnar.tcp_state import fold_tcp, fold_windows
from device_agent.flows.packets import ACK, RST, SYN

Index = npt.NDArray[np.intp]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_LAST_PART = 0xFFFF


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


def fold(parts: Parts, packets: Packets, table: FlowTable) -> tuple[npt.NDArray[np.void], Index]:
    """Add the packets of parts.

    Returns
    -------
    flows
        Counters of each part, structured as ``state.FLOW``; ``number`` and ``opened`` mean nothing for a flow that is
        opened here.
    answers
        For each flow of ``parts``, where in ``parts.at`` the packet is that answered it; -1 if none here did.
    """
    old = np.empty(len(parts.first_part), dtype=st.FLOW)
    known = (~parts.opened).nonzero()[0]
    st.put(old, known, table.flows.take(parts.row[parts.first_part[known]]))
    flows = st.blank(len(parts.begin))
    first = parts.place[parts.begin[parts.first_part]]
    reverse = ((packets.flags[first] & (SYN | ACK)) == SYN | ACK) & ~packets.symmetric[first]
    swapped = np.where(parts.opened, packets.swapped[first] ^ reverse, old["swapped"])
    flows["swapped"] = swapped[parts.flow]
    if len(known):
        flows["number"], flows["opened"] = old["number"][parts.flow], old["opened"][parts.flow]
    _number(flows, parts, old)
    forward = packets.swapped[parts.place] == np.repeat(flows["swapped"], parts.end - parts.begin)
    forward |= packets.symmetric[parts.place]
    given = Sorted(parts, packets, forward, packets.flags[parts.place], old)
    firsts = _count(flows, given)
    fold_windows(flows, given, firsts)
    fold_tcp(flows, given)
    fold_retransmissions(flows, given)
    return flows, _answers(flows, given, firsts)


def _answers(flows: npt.NDArray[np.void], given: Sorted, firsts: tuple[Index, Index, Index]) -> Index:
    """Find the first packet back of each flow other than a RST, and fill ``answered``."""
    parts = given.parts
    answered = ~parts.opened & given.old["answered"]
    answers = np.full(len(answered), -1)
    part, side, at = firsts
    back = ((side == 1) & ~answered[parts.flow[part]]).nonzero()[0]
    if len(back):
        part, at = part[back], at[back]
        refused = (given.flags[at] & RST) != 0
        # A RST ends a flow that began with TCP; another one goes on, and may be answered later.
        for i in (refused & (flows["tcp"][part] == 0)).nonzero()[0]:
            low, high = at[i], parts.end[part[i]]
            later = (~given.forward[low:high] & ((given.flags[low:high] & RST) == 0)).nonzero()[0]
            if len(later):
                at[i], refused[i] = low + later[0], False
        # Written from the last part to the first one: the first one's answer stays.
        answers[parts.flow[part[~refused][::-1]]] = at[~refused][::-1]
    flows["answered"] = (answered | (answers >= 0))[parts.flow]
    return answers


def _number(flows: npt.NDArray[np.void], parts: Parts, old: npt.NDArray[np.void]) -> None:
    flows["first"] = parts.time[parts.begin]
    flows["last"] = parts.time[parts.end - 1]
    if len(parts.begin) == len(parts.first_part) and parts.opened.all():
        return
    base = np.where(parts.opened, 0, old["part"].astype(np.int64))
    base += ~parts.opened & ~parts.continues[parts.first_part]
    within = np.arange(len(parts.begin)) - parts.first_part[parts.flow]
    flows["part"] = np.minimum(base[parts.flow] + within, _LAST_PART)


def _count(flows: npt.NDArray[np.void], given: Sorted) -> tuple[Index, Index, Index]:
    """Fill sums, extremes and times; parts that continue take over what the table has.

    Returns the parts and directions with packets, and where in ``parts.at`` the first packet of each is.
    """
    parts, packets, old = given.parts, given.packets, given.old
    continued = parts.continues.nonzero()[0]
    earlier = old.take(parts.flow[continued])
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
    lane += ~given.forward
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
    summed = st.summands(extremes[0], packets.payload_len[sorted_at], gap, given.flags[by_side])
    flows["sums"][part, side] = np.add.reduceat(summed, side_begin, axis=1).T
    if len(continued):
        later = flows.take(continued)
        st.merge(later, earlier)
        st.put(flows, continued, later)
    return part, side, by_side[side_begin]
