"""Losses of a model on the rows of a device, and the paired gain of one model over another."""

import math

import numpy as np
import numpy.typing as npt

from contract.taxonomy import BENIGN_INDEX, UNLABELLED
from device_agent.inference.engine import Inference, Labels

Losses = npt.NDArray[np.float64]

MIN_ROWS = 100
MIN_CLASS_ROWS = 5
MIN_GAIN = 0.02
MIN_Z = 1.0
_LEAST_PROBABILITY = 1e-7
_MAX_Z = 99.0


def row_losses(inference: Inference, y: Labels, *, recon_weight: float) -> Losses:
    """Return the loss of every row.

    Cross entropy where the row has a label, plus ``recon_weight`` times the reconstruction error where it is benign or
    unlabelled; the same two parts that training minimises.

    Parameters
    ----------
    inference
        Of the rows.
    y
        Shape ``(n,)``, -1 = unlabelled.
    recon_weight
        Factor of the reconstruction, >= 0.
    """
    own = inference.probs[np.arange(len(y)), np.maximum(y, 0)].astype(np.float64)
    losses = np.where(y >= 0, -np.log(np.maximum(own, _LEAST_PROBABILITY)), 0.0)
    normal = (y == BENIGN_INDEX) | (y == UNLABELLED)
    return losses + np.where(normal, recon_weight * inference.err.astype(np.float64), 0.0)


def paired_gain(default: Losses, other: Losses, blocks: npt.NDArray[np.int64], weights: Losses) -> tuple[float, float]:
    """Return the relative gain of ``other`` and its z, with a standard error clustered by block.

    Returns
    -------
    gain
        ``(mean default - mean other) / mean default``, weighted; 0 if the default has no loss.
    z
        Mean difference by its standard error; within plus and minus 99.
    """
    share = weights / weights.sum()
    difference = default - other
    mean = float((difference * share).sum())
    base = float((default * share).sum())
    _, group = np.unique(blocks, return_inverse=True)
    sums = np.bincount(group, weights=(difference - mean) * share)
    error = math.sqrt(float((sums * sums).sum()))
    if len(sums) == 1:  # one block is one witness: it has no spread, and proves nothing
        return (mean / base if base > 0.0 else 0.0), 0.0
    limit = math.copysign(_MAX_Z, mean) if mean else 0.0
    z = limit if abs(mean) >= _MAX_Z * error else mean / error
    return (mean / base if base > 0.0 else 0.0), z
