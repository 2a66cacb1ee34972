"""The ladder: expert, fallback, fine-tuned, local; climbed one rung at a time, on paired evidence only.

A rung that costs more to keep must show that it is better than the one below: by 2 % of the mean loss and one
standard error of the paired difference. The least loss alone would often be luck. A choice is kept for two rounds
unless its model is gone, so that a device does not swap models back and forth on the noise of a few flows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from contract.taxonomy import BENIGN_INDEX
from device_agent.ladder import MIN_CLASS_ROWS, MIN_GAIN, MIN_ROWS, MIN_Z, Losses, paired_gain

Step = Literal["expert", "fallback", "fine-tuned", "local"]

ORDER: tuple[Step, ...] = ("expert", "fallback", "fine-tuned", "local")
KEEP_ROUNDS = 2
BLENDS = (0.5, 1.0)
"""Shares of a fine-tuned model that a device tries: half way between the model it came from and itself, and itself."""


@dataclass(frozen=True, slots=True)
class Held:
    """The rung in use.

    Attributes
    ----------
    step
        Which one.
    rounds
        Rounds since it was taken.
    """

    step: Step
    rounds: int


@dataclass(frozen=True, slots=True)
class Climb:
    """Where the device stands now, and why.

    Attributes
    ----------
    step
        The rung.
    reason
        ``default``: nothing beat it; ``paired-gain``; ``few-rows``: too few to judge; ``one-class``: rows with
        hardly an attack cannot tell which model sees attacks; ``kept``: too early to change; ``only-one``.
    gain, z
        Relative gain over the rung it left, and its z; for ``default`` those of the rung that came nearest; ``None`` if
        nothing was measured.
    """

    step: Step
    reason: str
    gain: float | None = None
    z: float | None = None


def climb(
    losses: Mapping[Step, Losses],
    y: npt.NDArray[np.int32],
    blocks: npt.NDArray[np.int64],
    *,
    weights: Losses | None = None,
    held: Held | None = None,
) -> Climb | None:
    """Choose a rung.

    Parameters
    ----------
    losses
        Losses of the same validation rows by rung, shape ``(n,)`` each; a device outside a family has no ``expert``.
    y, blocks
        Shape ``(n,)``: label and time block of each row.
    weights
        Shape ``(n,)``, > 0; equal if ``None``. Rows of a class with fewer than five count no more than the median row.
    held
        The rung in use, if any.

    Returns
    -------
    Climb or None
        ``None`` if there is no model at all.
    """
    there = [step for step in ORDER if step in losses]
    if not there:
        return None
    chosen = Climb(there[0], "only-one" if len(there) == 1 else "default")
    if len(y) < MIN_ROWS:
        kept = held is not None and held.step in losses
        return Climb(held.step, "kept") if kept and held is not None else Climb(there[0], "few-rows")
    if (y > BENIGN_INDEX).sum() < MIN_CLASS_ROWS:
        # On benign rows alone the model wins that never raises an alert.
        return Climb(there[0], "one-class") if len(there) > 1 else chosen
    share = _plain_where_rare(np.ones(len(y)) if weights is None else weights, y)
    for step in there[1:]:
        gain, z = paired_gain(losses[chosen.step], losses[step], blocks, share)
        if gain > MIN_GAIN and z >= MIN_Z:
            chosen = Climb(step, "paired-gain", gain, z)
        elif chosen.reason == "default" and (chosen.gain is None or gain > chosen.gain):
            chosen = Climb(chosen.step, "default", gain, z)
    if held is not None and held.step in losses and held.step != chosen.step and held.rounds < KEEP_ROUNDS:
        return Climb(held.step, "kept")
    return chosen


def blended(base: npt.NDArray[np.float32], tuned: npt.NDArray[np.float32], share: float) -> npt.NDArray[np.float32]:
    """Return the model between a model and its fine-tuned copy: half way, it often beats both.

    A fine-tuned model fits the device's few rows and forgets some of what the base knew from all; the mean of their
    weights keeps most of both, since they lie in one valley of the loss (Wortsman et al. 2022).

    Parameters
    ----------
    base, tuned
        Weights of the same shape.
    share
        Of the tuned one, in ``[0, 1]``; 1 returns it unchanged.
    """
    return tuned if share == 1.0 else base + np.float32(share) * (tuned - base)


def _plain_where_rare(weights: Losses, y: npt.NDArray[np.int32]) -> Losses:
    """Cap the weight of rows of rare classes: a weight that makes up for rarity would make up evidence, too."""
    labels, counts = np.unique(y, return_counts=True)
    rare = np.isin(y, labels[counts < MIN_CLASS_ROWS])
    return np.where(rare, np.minimum(weights, np.median(weights)), weights)
