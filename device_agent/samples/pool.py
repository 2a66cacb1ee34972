"""A bounded set of rows, balanced over classes, that forgets the old."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.inference.engine import Floats, Labels

_MICROS = 1e6

EARLY_ROW = np.uint64(1 << 63)
"""Set in the id of a row that tells of a flow before its end; the flow's other row has the id without it."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows with what is known of them; all columns have the same length.

    Attributes
    ----------
    x
        Shape ``(n, D)``, float32 model inputs.
    y
        Shape ``(n,)``, int32: class index or -1.
    start_us
        Shape ``(n,)``, int64: first packet.
    flow_id
        Shape ``(n,)``, uint64: below 2**63, or that and ``EARLY_ROW``.
    source
        Shape ``(n,)``, uint8: :class:`device_agent.labels.marks.Source`.
    """

    x: Floats
    y: Labels
    start_us: npt.NDArray[np.int64]
    flow_id: npt.NDArray[np.uint64]
    source: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.y)

    def select(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> "Rows":
        """Return the rows that a mask or an index array picks, as copies."""
        return Rows(self.x[rows], self.y[rows], self.start_us[rows], self.flow_id[rows], self.source[rows])

    @classmethod
    def empty(cls, capacity: int, inputs: int) -> "Rows":
        """Return zero rows of room for ``capacity``; memory that was never written costs nothing."""
        return cls(
            x=np.zeros((capacity, inputs), dtype=np.float32),
            y=np.zeros(capacity, dtype=np.int32),
            start_us=np.zeros(capacity, dtype=np.int64),
            flow_id=np.zeros(capacity, dtype=np.uint64),
            source=np.zeros(capacity, dtype=np.uint8),
        )


class Pool:
    """At most ``capacity`` rows; the largest classes give way first.

    Inside a class every row has a key, and the rows of the smallest keys stay. Without ``half_life_s`` the key is
    uniform: the pool holds a uniform sample of all rows of the class. With it the key is that of weighted sampling
    (Efraimidis and Spirakis 2006) under weights that double every half-life of packet time, so recent rows prevail.

    Parameters
    ----------
    capacity
        Largest number of rows.
    inputs
        D.
    half_life_s
        Seconds of packet time, ``None`` = no preference for recent rows.
    """

    def __init__(self, capacity: int, inputs: int, *, half_life_s: float | None) -> None:
        if capacity < 1 or (half_life_s is not None and not half_life_s > 0.0):
            raise ValueError("capacity and half_life_s are positive")
        self._rows = Rows.empty(capacity, inputs)
        self._key = np.zeros(capacity)
        self._used = np.zeros(capacity, dtype=bool)
        self._half_life_s = half_life_s

    def __len__(self) -> int:
        return int(self._used.sum())

    def rows(self) -> Rows:
        """Return the rows as copies, in no particular but a reproducible order."""
        return self._rows.select(np.flatnonzero(self._used))

    def counts(self) -> dict[int, int]:
        """Return rows per label."""
        values, counts = np.unique(self._rows.y[self._used], return_counts=True)
        return {int(value): int(count) for value, count in zip(values, counts, strict=True)}

    def add(self, new: Rows, rng: np.random.Generator) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint64]]:
        """Add rows.

        Parameters
        ----------
        new
            Any number of rows.
        rng
            Draws the keys.

        Returns
        -------
        admitted
            Shape ``(len(new),)``, bool: which of the new rows stay.
        evicted
            Flow ids of older rows that gave way.
        """
        key = self._draw_keys(new.start_us, rng)
        old = np.flatnonzero(self._used)
        labels = np.concatenate([self._rows.y[old], new.y])
        keep = _keep(labels, np.concatenate([self._key[old], key]), len(self._used))
        gone = old[~keep[: len(old)]]
        evicted = self._rows.flow_id[gone].copy()
        self._used[gone] = False
        admitted = keep[len(old) :]
        slots = np.flatnonzero(~self._used)[: int(admitted.sum())]
        chosen = new.select(admitted)
        self._rows.x[slots], self._rows.y[slots] = chosen.x, chosen.y
        self._rows.start_us[slots], self._rows.flow_id[slots] = chosen.start_us, chosen.flow_id
        self._rows.source[slots] = chosen.source
        self._key[slots] = key[admitted]
        self._used[slots] = True
        return admitted, evicted

    def relabel(self, flow_id: int, label: int, source: int) -> bool:
        """Give the rows of a flow another label; return whether there are any here."""
        found = np.flatnonzero(self._used & ((self._rows.flow_id & ~EARLY_ROW) == np.uint64(flow_id)))
        self._rows.y[found], self._rows.source[found] = label, source
        return len(found) > 0

    def _draw_keys(self, start_us: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
        uniform = rng.uniform(np.finfo(np.float64).tiny, 1.0, size=len(start_us))
        if self._half_life_s is None:
            return uniform
        # log of an exponential variable divided by its weight 2^(t / half-life)
        key: npt.NDArray[np.float64] = np.log(-np.log(uniform)) - start_us * (
            math.log(2.0) / _MICROS / self._half_life_s
        )
        return key


def _keep(labels: Labels, key: npt.NDArray[np.float64], capacity: int) -> npt.NDArray[np.bool_]:
    """Return which rows stay: at most ``capacity``, the smallest keys of each class, large classes cut first."""
    if len(labels) <= capacity:
        return np.ones(len(labels), dtype=bool)
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    quota = _quotas(counts, capacity)
    order = np.lexsort((key, inverse))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels)) - starts[inverse[order]]
    keep: npt.NDArray[np.bool_] = rank < quota[inverse]
    return keep


def _quotas(counts: npt.NDArray[np.int64], capacity: int) -> npt.NDArray[np.int64]:
    """Return how many rows of each class stay: all of the small ones, the large ones cut to one level."""
    quota = np.zeros_like(counts)
    left = capacity
    for done, index in enumerate(np.argsort(counts, kind="stable")):
        quota[index] = min(counts[index], left // (len(counts) - done))
        left -= int(quota[index])
    return quota
