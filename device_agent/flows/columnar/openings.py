"""The ``initiator_*`` counts of flows that a batch opens."""

import numpy as np
import numpy.typing as npt

from device_agent.flows.columnar.flows import FlowTable
from device_agent.flows.windows import InitiatorWindows

I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


class Openings:
    """Initiator windows, asked for many flows at once."""

    def __init__(self) -> None:
        self._windows = InitiatorWindows()

    @property
    def evicted(self) -> int:
        """Return how many initiators were forgotten for lack of room."""
        return self._windows.evicted

    def clear(self) -> None:
        """Forget everything, as after a step of the clock."""
        self._windows.clear()

    def note(self, table: FlowTable, rows: npt.NDArray[np.int32], swapped: Bool, clock: I64) -> I64:
        """Note flows in the order in which they were opened.

        Parameters
        ----------
        table
            The table with their keys.
        rows
            Rows of their keys.
        swapped
            Whether the initiator is the second endpoint of the key.
        clock
            Packet clock at each opening, microseconds.

        Returns
        -------
        int64 array, shape (n, 3)
            Flows, peers and ports of each initiator, the flow itself included.
        """
        keys = table.keys
        both = keys.key_0[rows].astype(">u8").tobytes()
        pairs = [(both[at : at + 4], both[at + 4 : at + 8]) for at in range(0, len(both), 8)]
        for i in np.flatnonzero(keys.is_v6[rows]).tolist():
            address = keys.v6_words[rows[i]].astype(">u8").tobytes()
            pairs[i] = address[:16], address[16:]
        key_1 = keys.key_1[rows]
        ports = np.where(swapped, key_1 >> np.uint64(48), (key_1 >> np.uint64(32)) & np.uint64(0xFFFF)).tolist()
        counts = [
            self._windows.open(pair[1], pair[0], port, at) if turned else self._windows.open(pair[0], pair[1], port, at)
            for pair, port, at, turned in zip(pairs, ports, clock.tolist(), swapped.tolist(), strict=True)
        ]
        return np.array(counts, dtype=np.int64).reshape(-1, 3)
