"""Retransmitted TCP segments of a batch, by the rule of ``device_agent.flows.tcp.TcpState.repeats``."""

import numpy as np
import numpy.typing as npt

from device_agent.flows.columnar.parts import Sorted
from device_agent.flows.packets import SYN

Index = npt.NDArray[np.intp]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_MASK, _HALF = (1 << 32) - 1, 1 << 31
_NEAR = 1 << 30
"""Ends that lie so close to one base are in the order of their distances from it, wherever the numbers wrap."""


def fold_retransmissions(flows: npt.NDArray[np.void], given: Sorted) -> None:
    """Count the retransmissions of each part and direction, and note the highest end of each flow and direction."""
    parts, packets, old = given.parts, given.packets, given.old
    top = np.where(parts.opened[:, None], np.int64(-1), old["top"])
    place = parts.place
    at = ((packets.payload_len[place] > 0) & packets.has_tcp[place]).nonzero()[0]
    part = np.searchsorted(parts.begin, at, side="right") - 1
    counted = flows["tcp"][part] != 0
    if not counted.all():
        at, part = at[counted], part[counted]
    if len(at):
        side = (~given.forward[at]).astype(np.intp)
        line = 2 * parts.flow[part] + side
        order = np.argsort(line.astype(np.uint16), kind="stable")
        line = line[order]
        placed = place[at[order]]
        syn = (given.flags[at[order]] & SYN) != 0
        ends = (packets.seq[placed].astype(np.int64) + packets.payload_len[placed] + syn) & _MASK
        again = order[_repeats(line, ends, top.reshape(-1))]
        np.add.at(flows["retransmitted"], (part[again], side[again]), 1)
    flows["top"] = top[parts.flow]


def _repeats(line: Index, ends: I64, top: I64) -> Bool:
    """Return which segments are retransmissions.

    Parameters
    ----------
    line
        Flow and direction of each segment, ascending; in order of time within one.
    ends
        Where their payloads end, below 2**32.
    top
        Highest end of each flow and direction, -1 before the first; changed to what holds afterwards.
    """
    begin = np.concatenate(([0], (line[1:] != line[:-1]).nonzero()[0] + 1))
    sizes = np.diff(np.append(begin, len(line)))
    known = top[line[begin]] >= 0
    base = np.where(known, top[line[begin]], ends[begin])
    rank = np.repeat(np.arange(len(begin)), sizes)
    ahead = ((ends - base[rank] + _HALF) & _MASK) - _HALF
    # One running maximum over all lines: each lies above the one before it.
    level = np.arange(len(begin)) << 33
    height = ahead + level[rank]
    highest = np.maximum(np.maximum.accumulate(height), level[rank])
    before = np.empty_like(highest)
    before[1:] = highest[:-1]
    before[begin] = np.where(known, level, level - _HALF)
    again: Bool = height <= before
    top[line[begin]] = (base + highest[begin + sizes - 1] - level) & _MASK
    is_far = np.abs(ahead) >= _NEAR
    for group in np.unique(rank[is_far]).tolist() if is_far.any() else ():
        low, high = int(begin[group]), int(begin[group] + sizes[group])
        start = int(base[group]) if known[group] else None
        again[low:high], top[line[low]] = _one_by_one(ends[low:high].tolist(), start)
    return again


def _one_by_one(ends: list[int], top: int | None) -> tuple[list[bool], int]:
    """Return which of a line's segments are retransmissions, and the highest end after them."""
    again, highest = [], ends[0] if top is None else top
    for i, end in enumerate(ends):
        beyond = 0 < (end - highest & _MASK) < _HALF
        again.append(not beyond and (i > 0 or top is not None))
        if beyond:
            highest = end
    return again, highest
