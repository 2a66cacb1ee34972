"""From scores to decisions: one function and one frozen object."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.model import ModelId
from contract.taxonomy import BENIGN_INDEX, CLASS_INDEX, CLASSES
from device_agent.detection.calibration import Calibration
from device_agent.detection.explanation import classifier_drivers, reconstruction_drivers, strongest
from device_agent.detection.profile import BenignProfile
from device_agent.detection.scores import Scores, fuse
from device_agent.inference.engine import Engine, Floats, Inference

ANOMALY = "anomaly"
"""What an alert is called that the reconstruction alone raised."""

_ANOMALY_INDEX = CLASS_INDEX["other_attack"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the detector decided on rows.

    Attributes
    ----------
    scores
        Scores of the rows.
    alerted
        Shape ``(n,)``, bool: ``score >= threshold``.
    class_index
        Shape ``(n,)``, int64: benign for rows below both thresholds; else the most probable attack class, or
        ``other_attack`` where the reconstruction raised the score above the classifier's.
    by_reconstruction
        Shape ``(n,)``, bool: rows of the second kind, among those with an alert and those that linger.
    lingering
        Shape ``(n,)``, bool: below the threshold and at or above the clear threshold: no alert by themselves, part of
        one of their kind that is open.
    """

    scores: Scores
    alerted: npt.NDArray[np.bool_]
    class_index: npt.NDArray[np.int64]
    by_reconstruction: npt.NDArray[np.bool_]
    lingering: npt.NDArray[np.bool_]

    def attack_class(self, row: int) -> str:
        """Return the name an alert on this row carries, or would carry."""
        return ANOMALY if self.by_reconstruction[row] else CLASSES[int(self.class_index[row])]


@dataclass(frozen=True, slots=True)
class Detector:
    """One model in use; swapping models means swapping this object.

    Attributes
    ----------
    engine
        Of the detecting thread.
    theta
        Shape ``(P,)``, float32; never written.
    model
        Which model this is.
    calibration
        The device's threshold for it.
    profile
        The device's benign traffic, ``None`` before there is any.
    """

    engine: Engine
    theta: Floats
    model: ModelId
    calibration: Calibration
    profile: BenignProfile | None = None

    def judge(self, x: Floats) -> Decision:
        """Score model inputs of shape ``(n, D)`` and decide."""
        return decide(self.engine.infer(self.theta, x), self.calibration)

    def top_features(self, row: Floats, *, by_reconstruction: bool) -> tuple[str, ...]:
        """Return the features that drove the score of one row, shape ``(D,)``, strongest first.

        Of the classifier: gradient times deviation from benign traffic. Of the reconstruction: the features that came
        out worst. A row that no feature explains this way is explained by what is unusual about it.
        """
        if by_reconstruction:
            return strongest(reconstruction_drivers(self.engine, self.theta, row))
        usual = self.profile.mean if self.profile is not None else np.zeros_like(row)
        found = strongest(classifier_drivers(self.engine, self.theta, row, usual))
        return found or (self.profile.top_features(row) if self.profile is not None else ())


def decide(inference: Inference, calibration: Calibration) -> Decision:
    """Return scores and alerts of rows under a calibration."""
    scores = fuse(inference, calibration.err_reference)
    alerted = scores.score >= calibration.threshold
    attacks = inference.probs.copy()
    attacks[:, BENIGN_INDEX] = -1.0
    lingering = ~alerted & (scores.score >= calibration.clear_threshold)
    open_rows = alerted | lingering
    by_reconstruction = open_rows & (scores.anomaly > scores.p_attack)
    found = np.where(by_reconstruction, _ANOMALY_INDEX, attacks.argmax(axis=1))
    return Decision(scores, alerted, np.where(open_rows, found, BENIGN_INDEX), by_reconstruction, lingering)
