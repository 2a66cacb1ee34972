"""Guards the baseline against poisoning: a learning window that somebody attacks must not make the attack normal."""

import numpy as np

from device_agent.labels.source import Source
from device_agent.samples.pool import Rows
from device_agent.samples.split import SplitSettings, block_numbers

BURST_FACTOR = 8.0
"""A block of time with this many times the usual rows is no ordinary one."""

_LEAST_ROWS = 50
_LEAST_BLOCKS = 5


def without_bursts(rows: Rows, split: SplitSettings) -> tuple[Rows, int]:
    """Leave out baseline rows of time blocks that hold far more of them than the others do.

    Floods, scans and guessing come in bursts; within a learning window only the amount tells them apart. Rows that a
    mark or an operator labelled stay. Slow attacks pass: the guard bounds what a burst can do, no more.

    Parameters
    ----------
    rows
        Of a pool.
    split
        How time is cut into blocks.

    Returns
    -------
    Rows, int
        The rows that stay, and how many were left out.
    """
    baseline = np.flatnonzero(rows.source == Source.BASELINE)
    if not len(baseline):
        return rows, 0
    _, block, counts = np.unique(block_numbers(rows.start_us[baseline], split), return_inverse=True, return_counts=True)
    if len(counts) < _LEAST_BLOCKS:
        return rows, 0
    burst = counts > max(BURST_FACTOR * float(np.median(counts)), _LEAST_ROWS)
    if not burst.any():
        return rows, 0
    keep = np.ones(len(rows), dtype=bool)
    keep[baseline[burst[block]]] = False
    return rows.select(keep), int((~keep).sum())
