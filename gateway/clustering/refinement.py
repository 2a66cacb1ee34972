"""From a cut of the tree to parts: small ones fall away, and every device joins the part that is clearly nearest."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from gateway.grouping import Prototype, Vector

Labels = npt.NDArray[np.int64]

REST = -1
_CLEARLY = 0.3
_LEAST_PAIRS = 2
_ROUNDS = 5


def refined(distances: Vector, pairs: npt.NDArray[np.bool_], labels: Labels, min_part: int) -> Labels:
    """Let every device join the part that is clearly the nearest, or none.

    The tree joins devices early and for good, and it needs a distance for pairs that share no class. Here only pairs
    that can be compared count: the mean distance to the nearest part must be 30 % less than to the second.

    Parameters
    ----------
    distances
        Shape ``(n, n)``.
    pairs
        Shape ``(n, n)``: as ``comparable``.
    labels
        Shape ``(n,)``: part of each device, at least two parts; ``REST`` for none.
    min_part
        Smallest part.

    Returns
    -------
    numpy.ndarray
        New labels; no part ends empty while this runs, so that parts stay what the cut found.
    """
    parts = int(labels.max()) + 1
    for _ in range(_ROUNDS):
        means = np.full((len(labels), parts), np.inf)
        for part in range(parts):
            some = (labels == part)[None, :] & pairs
            counts = some.sum(axis=1)
            enough = counts >= _LEAST_PAIRS
            means[enough, part] = (distances * some).sum(axis=1)[enough] / counts[enough]
        first, second = np.sort(means, axis=1)[:, :2].T
        clear = np.isfinite(first) & (first <= (1.0 - _CLEARLY) * second)
        moved = np.where(clear, means.argmin(axis=1), REST)
        if (moved == labels).all() or len(np.unique(moved[moved != REST])) < parts:
            break
        labels = moved
    return without_small(labels, min_part)


def comparable(prototypes: Sequence[Mapping[str, Prototype]]) -> npt.NDArray[np.bool_]:
    """Return which pairs of different devices share an attack class, shape ``(n, n)``."""
    classes = sorted({name for held in prototypes for name in held})
    seen = np.array([[name in held for name in classes] for held in prototypes], dtype=np.int64)
    result: npt.NDArray[np.bool_] = seen @ seen.T > 0
    np.fill_diagonal(result, False)
    return result


def without_small(labels: Labels, min_part: int) -> Labels:
    """Return labels numbered anew, with ``REST`` for members of parts below ``min_part``."""
    result = np.full(len(labels), REST)
    number = 0
    for label in np.unique(labels[labels != REST]):
        rows = np.flatnonzero(labels == label)
        if len(rows) >= min_part:
            result[rows] = number
            number += 1
    return result
