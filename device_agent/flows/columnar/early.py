"""Which flows of a batch get their early record, and the packets it tells of."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from device_agent.flows.columnar.flows import FlowTable
from device_agent.flows.columnar.parts import Parts
from device_agent.flows.columnar.sequence import NO_REASON
from device_agent.flows.records import EndReason

Index = npt.NDArray[np.intp]


class Early:
    """The rule for early records of ``device_agent.flows.meter``.

    Nothing has to be remembered of a flow: the record comes with the packet that makes the condition true.

    Parameters
    ----------
    pkts
        Packets of a flow at which it comes, 0 for never.
    after_us
        Microseconds after the first packet at which it comes, 0 for never.
    """

    def __init__(self, pkts: int, after_us: int) -> None:
        self._pkts = pkts
        self._after_us = after_us

    def snapshots(self, parts: Parts, table: FlowTable) -> tuple[Index, Index]:
        """Return the parts with an early record, and for each the end of its packets."""
        nothing = np.zeros(0, dtype=np.intp)
        if not (self._pkts or self._after_us):
            return nothing, nothing
        part = parts.first_part
        size, first = parts.end[part] - parts.begin[part], parts.time[parts.begin[part]]
        last, fresh = parts.time[parts.end[part] - 1], parts.opened.copy()
        before = np.zeros(len(part), dtype=np.int64)
        goes_on = (parts.continues[part] & ~parts.opened).nonzero()[0]
        if len(goes_on):
            stored = table.flows.take(parts.row[part[goes_on]])
            before[goes_on] = stored["sums"][:, :, 0].sum(axis=1)
            first[goes_on] = stored["first"]
            fresh[goes_on] = (stored["part"] == 0) & ~self._due(before[goes_on], stored["last"] - stored["first"])
        chosen = (fresh & self._due(before + size, last - first)).nonzero()[0]
        found = [(int(part[i]), self._end(parts, int(part[i]), int(before[i]), int(first[i]))) for i in chosen.tolist()]
        kept = [
            (i, end)
            for i, end in found
            if not (
                # What ended with that very packet has its closing record.
                end == parts.end[i] and parts.reason[i] == EndReason.TCP_END and parts.closed_by[i] == parts.at[end - 1]
            )
        ]
        return np.array([i for i, _ in kept], dtype=np.intp), np.array([end for _, end in kept], dtype=np.intp)

    def _due(self, pkts: npt.NDArray[np.int64], span_us: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        due = np.zeros(len(pkts), dtype=np.bool_)
        if self._pkts:
            due |= pkts >= self._pkts
        if self._after_us:
            due |= span_us >= self._after_us
        return due

    def _end(self, parts: Parts, part: int, before: int, first_us: int) -> int:
        """Return the index behind the packet with which a part's early record comes; there is one."""
        begin, end = int(parts.begin[part]), int(parts.end[part])
        at = end - 1
        if self._pkts:
            at = min(at, begin + self._pkts - before - 1)
        if self._after_us:
            at = min(at, begin + int(np.searchsorted(parts.time[begin:end], first_us + self._after_us)))
        return at + 1


def with_snapshots(parts: Parts, part: Index, end: Index) -> Parts:
    """Return parts with further ones behind them, each a flow of its own: the packets of ``part`` up to ``end``."""
    if not len(part):
        return parts
    sizes = end - parts.begin[part]
    begin = np.cumsum(sizes) - sizes
    picked = np.arange(sizes.sum()) + np.repeat(parts.begin[part] - begin, sizes)
    n, n_parts, n_flows = len(parts.at), len(parts.begin), len(parts.first_part)
    new = np.arange(len(part))
    return replace(
        parts,
        at=np.concatenate((parts.at, parts.at[picked])),
        place=np.concatenate((parts.place, parts.place[picked])),
        time=np.concatenate((parts.time, parts.time[picked])),
        begin=np.concatenate((parts.begin, begin + n)),
        end=np.concatenate((parts.end, begin + sizes + n)),
        row=np.concatenate((parts.row, parts.row[part])),
        flow=np.concatenate((parts.flow, new + n_flows)),
        first_part=np.concatenate((parts.first_part, new + n_parts)),
        opened=np.concatenate((parts.opened, parts.opened[parts.flow[part]])),
        continues=np.concatenate((parts.continues, parts.continues[part])),
        reason=np.concatenate((parts.reason, np.full(len(part), EndReason.EARLY, dtype=np.int8))),
        closed_by=np.concatenate((parts.closed_by, parts.at[end - 1])),
        before=np.concatenate((parts.before, np.full(len(part), NO_REASON, dtype=np.int8))),
    )
