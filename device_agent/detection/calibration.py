"""The threshold of a device, set on its own benign validation flows to a false-alarm budget."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.detection.scores import fuse
from device_agent.inference.engine import Inference

MIN_ROWS = 50
"""Fewer benign validation rows say too little about a tail."""

CEILING = 0.95
"""No threshold lies above: a benign row that the classifier gives more is a wrong label or a model that needs training,
and a threshold above it would silence the detector for the sake of that row."""

CLEAR_ODDS = 0.5
"""An open alert lasts as long as flows of its kind have this share of the odds that raise one."""

_ERR_MARGIN = 1.25
_THRESHOLD_MARGIN = 0.1


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold and what it rests on.

    Attributes
    ----------
    threshold
        Alerts fire at ``score >= threshold``; above 1 none can.
    err_reference
        Reconstruction error that scores 0.5; ``None`` leaves the reconstruction out.
    n_rows
        Benign validation rows used.
    flows_per_hour
        Benign flows per hour of the device's traffic when it was made.
    budget_per_hour
        False alarms per hour that are allowed.
    expected_per_hour
        Alarms per hour that the rows themselves would raise; above the budget where the ceiling keeps the threshold
        down.
    """

    threshold: float
    err_reference: float | None
    n_rows: int
    flows_per_hour: float
    budget_per_hour: float
    expected_per_hour: float = 0.0

    @property
    def clear_threshold(self) -> float:
        """The score that keeps an alert open which a score at the threshold raised: half of its odds.

        0.98 for a threshold of 0.99, one third for 0.5: it is the same step of evidence everywhere. Above 1 where the
        threshold is.
        """
        odds = self.threshold / (1.0 - self.threshold) if self.threshold < 1.0 else math.inf
        return self.threshold if odds == math.inf else odds * CLEAR_ODDS / (1.0 + odds * CLEAR_ODDS)

    @property
    def benign_seconds(self) -> float:
        """Seconds of traffic that the rows stand for; 0 without any."""
        return 3600.0 * self.n_rows / self.flows_per_hour if self.flows_per_hour > 0 else 0.0


UNCALIBRATED = Calibration(0.99, None, 0, 0.0, 0.0)
"""Of a model that met no traffic of the device: only a very sure classifier raises an alert."""


def calibrate(inference: Inference, *, flows_per_hour: float, budget_per_hour: float) -> Calibration | None:
    """Set the threshold so that benign traffic like the rows stays within the budget.

    The budget's share of the rows may lie at or above the threshold, half of it through the reconstruction: its
    reference is set so that no more than half the share scores 0.5 by it, hence a heavy tail of reconstruction
    errors cannot push the threshold of the classifier up. Where less than one false alarm is allowed in the
    rows, nothing of them may fire and a margin is added on both. Rows that the classifier puts above the ceiling fire
    in any case: they use up allowance, and say nothing about the other rows.

    Parameters
    ----------
    inference
        Of benign validation rows, an unbiased sample of the device's benign flows.
    flows_per_hour
        Benign flows per hour, > 0.
    budget_per_hour
        Allowed false alarms per hour, >= 0.

    Returns
    -------
    Calibration or None
        ``None`` for fewer than ``MIN_ROWS`` rows.

    Notes
    -----
    With few rows and a small budget the true rate stays unknown: ``n`` rows without an alarm bound it to about
    ``3 / n`` of the flows at 95 % confidence.
    """
    n_rows = len(inference.err)
    if n_rows < MIN_ROWS or not flows_per_hour > 0.0:
        return None
    sure = fuse(inference, None).score >= CEILING
    rest = Inference(inference.probs[~sure], inference.err[~sure])
    allowed = max(0, math.floor(budget_per_hour / flows_per_hour * n_rows) - int(sure.sum()))
    err_reference, threshold = _cut(rest, allowed) if len(rest.err) else (None, CEILING)
    alarms = int((fuse(inference, err_reference).score >= threshold).sum())
    return Calibration(
        threshold, err_reference, n_rows, flows_per_hour, budget_per_hour, alarms / n_rows * flows_per_hour
    )


def _cut(rows: Inference, allowed: int) -> tuple[float, float]:
    """Return the reference and the threshold at which ``allowed`` of the rows fire."""
    allowed = min(allowed, len(rows.err) - 1)
    err_reference = _reference(rows.err.astype(np.float64), allowed // 2)
    score = np.sort(fuse(rows, err_reference).score)[::-1]
    threshold = float(np.nextafter(score[allowed], 2.0))
    if allowed == 0:
        threshold += _THRESHOLD_MARGIN * max(0.0, 1.0 - threshold)
    return err_reference, min(threshold, CEILING)


def _reference(err: npt.NDArray[np.float64], allowed: int) -> float:
    tail = np.sort(err)[::-1]
    reference = tail[allowed] if allowed else tail[0] * _ERR_MARGIN
    return max(float(reference), 1e-9)  # rows reproduced exactly must not divide by 0
