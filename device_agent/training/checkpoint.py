"""Where a training stands after whole epochs, and its form in frames and on disk."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from device_agent.inference.engine import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Everything that a training needs to go on as if it had never stopped; the shuffling follows from the seed.

    Attributes
    ----------
    epochs
        Whole epochs done.
    theta, m, v
        Shape ``(P,)``, float32: weights and moments of the optimiser; SGD has one moment, ``v`` is empty then.
    steps, skipped
        Steps taken, and batches left out.
    losses
        Of the epochs done.
    """

    epochs: int
    theta: Floats
    m: Floats
    v: Floats
    steps: int
    skipped: int
    losses: tuple[float, ...]


def checkpoint_to_message(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return plain values for a frame."""
    return {
        "epochs": checkpoint.epochs,
        "theta": checkpoint.theta.astype("<f4", copy=False).tobytes(),
        "m": checkpoint.m.astype("<f4", copy=False).tobytes(),
        "v": checkpoint.v.astype("<f4", copy=False).tobytes(),
        "steps": checkpoint.steps,
        "skipped": checkpoint.skipped,
        "losses": list(checkpoint.losses),
    }


def checkpoint_from_message(message: dict[str, Any]) -> Checkpoint:
    """Return the checkpoint of a frame.

    Raises
    ------
    ValueError, TypeError, KeyError
        If the values are none.
    """
    theta, m, v = (np.frombuffer(message[name], dtype="<f4").astype(np.float32) for name in ("theta", "m", "v"))
    return Checkpoint(
        epochs=int(message["epochs"]),
        theta=theta,
        m=m,
        v=v,
        steps=int(message["steps"]),
        skipped=int(message["skipped"]),
        losses=tuple(float(loss) for loss in message["losses"]),
    )
