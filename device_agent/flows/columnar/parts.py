"""What ``fold`` works on: the parts of flows that packets of a plan belong to."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.flows.columnar.parse import Packets

Index = npt.NDArray[np.intp]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


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


@dataclass(slots=True, eq=False)
class Sorted:
    """Parts with the columns of their packets, sorted as ``parts.at``.

    Attributes
    ----------
    parts, packets
        The parts, and the columns their packets are in.
    forward, flags
        Direction and TCP flags of each packet.
    old
        For each flow that continues one of the table, that one; arbitrary for the others.
    """

    parts: Parts
    packets: Packets
    forward: Bool
    flags: npt.NDArray[np.uint8]
    old: npt.NDArray[np.void]
