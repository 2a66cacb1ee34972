"""Memory for the records of the compiled meter, which writes them where they stay."""

import ctypes

import numpy as np

from contract.features import N_FEATURES
from device_agent.flows.records import EMPTY, IDENTITY, FlowBatch

LEAST_ROOM, MOST_ROOM = 64, 16_384
"""Records for which there is room at first, and at most: what comes at once beyond that is copied together."""


class Output:
    """Records since they were taken last.

    Parameters
    ----------
    library, meter
        The compiled meter.
    """

    def __init__(self, library: ctypes.CDLL, meter: int) -> None:
        self._library, self._meter = library, meter
        self._full: list[FlowBatch] = []
        self._begin(LEAST_ROOM)

    def grow(self) -> None:
        """Make more room, behind what was written."""
        batch, room = self._batch, len(self._batch)
        self._full.append(_first(batch, self._begin(min(2 * room, max(room, MOST_ROOM)))))

    def take(self) -> FlowBatch:
        """Return and forget what was written."""
        batch, room = self._batch, len(self._batch)
        n = self._library.kw_write_to(self._meter, *self._places, room)
        if 2 * n >= room:
            self._begin(room)
            self._full.append(_first(batch, n))
        elif n:
            # Few: the memory is used again rather than kept for them.
            self._full.append(FlowBatch(batch.identity[:n].copy(), batch.features[:n].copy()))
        elif not self._full:
            return EMPTY
        full, self._full = self._full, []
        return FlowBatch.concat(full)

    def _begin(self, room: int) -> int:
        """Have the next records written to new memory; return how many are in that of before."""
        self._batch = FlowBatch(np.empty(room, dtype=IDENTITY), np.empty((room, N_FEATURES), dtype=np.float64))
        self._places = self._batch.identity.ctypes.data, self._batch.features.ctypes.data
        return int(self._library.kw_write_to(self._meter, *self._places, room))


def _first(batch: FlowBatch, n: int) -> FlowBatch:
    return FlowBatch(batch.identity[:n], batch.features[:n])
