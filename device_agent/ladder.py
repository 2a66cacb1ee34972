"""Which model a device uses: the expert or the fallback, on paired evidence of its own validation rows."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from contract.taxonomy import BENIGN_INDEX, UNLABELLED
from device_agent.inference.engine import Inference, Labels

Rung = Literal["expert", "fallback"]
Losses = npt.NDArray[np.float64]

MIN_ROWS = 100
MIN_CLASS_ROWS = 5
MIN_GAIN = 0.02
MIN_Z = 1.0
_LEAST_PROBABILITY = 1e-7
_MAX_Z = 99.0


@dataclass(frozen=True, slots=True)
class Choice:
    """What the device uses and why.

    Attributes
    ----------
    role
        The model.
    reason
        ``only-one``, ``few-rows``, ``one-class``: rows of a single class cannot tell which model sees attacks;
        ``default``: the other is not better enough; ``paired-gain``: it is.
    gain
        Relative loss that the other model saves against the default; ``None`` if it was not measured.
    z
        The gain's mean difference in standard errors; ``None`` if it was not measured.
    """

    role: Rung
    reason: str
    gain: float | None = None
    z: float | None = None


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


def choose(
    *,
    expert: Losses | None,
    fallback: Losses | None,
    y: Labels,
    blocks: npt.NDArray[np.int64],
    family_member: bool,
    weights: Losses | None = None,
) -> Choice | None:
    """Choose between two models.

    The default is the expert for members of a family and the fallback for the others. The other model is taken when it
    saves more than 2 % of the mean loss and the paired difference is at least one standard error. The error
    is that of sums over time blocks, since neighbouring flows are no independent witnesses.

    Parameters
    ----------
    expert, fallback
        Shape ``(n,)``: losses of the same validation rows; ``None`` = the device does not hold that model.
    y
        Shape ``(n,)``: labels of the rows.
    blocks
        Shape ``(n,)``: time block of each row.
    family_member
        Whether the device is assigned to a family.
    weights
        Shape ``(n,)``, > 0: weight of each row, for example its class weight; equal if ``None``.

    Returns
    -------
    Choice or None
        ``None`` if there is no model at all.
    """
    if expert is None or fallback is None:
        held: Rung | None = "expert" if expert is not None else "fallback" if fallback is not None else None
        return None if held is None else Choice(held, "only-one")
    default: Rung = "expert" if family_member else "fallback"
    other: Rung = "fallback" if family_member else "expert"
    counts = np.unique(y[y >= 0], return_counts=True)[1]
    if len(y) < MIN_ROWS or (len(counts) and counts.min() < MIN_CLASS_ROWS):
        return Choice(default, "few-rows")
    if len(counts) == 1:
        # On benign rows alone the model wins that never raises an alert.
        return Choice(default, "one-class")
    ours, theirs = (expert, fallback) if family_member else (fallback, expert)
    gain, z = paired_gain(ours, theirs, blocks, np.ones(len(y)) if weights is None else weights)
    if gain > MIN_GAIN and z >= MIN_Z:
        return Choice(other, "paired-gain", gain, z)
    return Choice(default, "default", gain, z)


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
