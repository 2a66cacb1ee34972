"""The score of a flow: what the classifier thinks and how odd the reconstruction finds it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.taxonomy import BENIGN_INDEX
from device_agent.inference.engine import Inference


@dataclass(frozen=True, slots=True)
class Scores:
    """Two views of every row and their fusion, each in ``[0, 1]``, higher = worse.

    Attributes
    ----------
    score
        Shape ``(n,)``, float64: the larger of the two below.
    p_attack
        Shape ``(n,)``: probability of any class but benign.
    anomaly
        Shape ``(n,)``: ``r^2 / (1 + r^2)`` with ``r`` the reconstruction error over the device's reference, so 0.5 at
        the reference; 0 without a reference.
    """

    score: npt.NDArray[np.float64]
    p_attack: npt.NDArray[np.float64]
    anomaly: npt.NDArray[np.float64]


def fuse(inference: Inference, err_reference: float | None) -> Scores:
    """Return the scores of rows.

    The larger of the two views wins: a class that the classifier knows need not look odd, and what looks odd need not
    be a class it knows.

    Parameters
    ----------
    inference
        Output of the model.
    err_reference
        Reconstruction error that scores 0.5, > 0; ``None`` leaves the reconstruction out.
    """
    probs = inference.probs.astype(np.float64)
    p_benign = probs[:, BENIGN_INDEX]
    # The sum keeps the digits of a small probability, the difference those of one near 1.
    p_attack = np.where(p_benign < 0.5, 1.0 - p_benign, np.delete(probs, BENIGN_INDEX, axis=1).sum(axis=1))
    p_attack = np.clip(p_attack, 0.0, 1.0)
    anomaly = np.zeros_like(p_attack)
    if err_reference is not None:
        squared = np.square(np.minimum(inference.err.astype(np.float64) / err_reference, 1e6))
        anomaly = squared / (1.0 + squared)
    return Scores(np.maximum(p_attack, anomaly), p_attack, anomaly)
