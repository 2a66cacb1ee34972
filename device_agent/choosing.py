"""From candidate models to a detector: self check, paired choice, calibration; and the report on the exam."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.messages import ModelScore
from contract.model import ModelId
from contract.taxonomy import BENIGN_INDEX, N_CLASSES
from device_agent.detection.calibration import MIN_ROWS, UNCALIBRATED, Calibration, calibrate
from device_agent.detection.detector import Detector, decide
from device_agent.detection.profile import BenignProfile
from device_agent.effects import ChooseModel
from device_agent.inference.engine import Engine, Floats
from device_agent.ladder import Losses, row_losses
from device_agent.rungs import ORDER, Climb, Held, Step, climb
from device_agent.samples.pool import Rows
from device_agent.samples.split import SplitSettings, block_numbers
from device_agent.training.trainer import class_weights

RECON_WEIGHT = 0.5
"""Share of the reconstruction in the loss that models are compared by."""
SILENT = Calibration(1.01, None, 0, 0.0, 0.0)
"""Of weights that were never trained: nothing they say is worth an alert."""
_CLASS_WEIGHT_CAP = 10.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a choice rests on.

    Attributes
    ----------
    validation
        Rows of the validation pool.
    benign_train
        Shape ``(n, D)``: benign rows of the training pool.
    flows_per_hour
        Benign flows of the device.
    budget_per_hour
        False alarms that are allowed.
    split
        How time is cut into blocks.
    """

    validation: Rows
    benign_train: Floats
    flows_per_hour: float
    budget_per_hour: float
    split: SplitSettings


@dataclass(frozen=True, slots=True)
class Chosen:
    """A detector that is ready, and why this one."""

    detector: Detector
    reason: str
    gain: float | None
    z: float | None
    validation_rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Losses of models on the same validation rows.

    Attributes
    ----------
    losses
        By the key of the model, shape ``(n,)``.
    y, blocks, weights
        Shape ``(n,)``: label, time block and weight of each row.
    """

    losses: dict[str, Losses]
    y: npt.NDArray[np.int32]
    blocks: npt.NDArray[np.int64]
    weights: Losses

    def mean(self, losses: Losses) -> float:
        """Return the weighted mean of losses; there must be rows."""
        return float(losses @ self.weights / self.weights.sum())


def compare(models: Mapping[str, Floats], evidence: Evidence, engine: Engine) -> Compared:
    """Measure models on the validation rows."""
    rows = evidence.validation
    losses = {
        key: row_losses(engine.infer(theta, rows.x), rows.y, recon_weight=RECON_WEIGHT) for key, theta in models.items()
    }
    return Compared(losses, rows.y, block_numbers(rows.start_us, evidence.split), _row_weights(rows))


def self_check(engine: Engine, theta: Floats, validation: Rows) -> str | None:
    """Return why weights must not be used, ``None`` if they are fine on fixed probes and on the device's own rows."""
    grid = np.linspace(0.0, 3.0, 16 * engine.layout.inputs, dtype=np.float32).reshape(16, -1)
    for x in (grid, np.zeros_like(grid), validation.x[:64]):
        with np.errstate(all="ignore"):  # what overflows is found below
            out = engine.infer(theta, x)
        if not (np.isfinite(out.probs).all() and np.isfinite(out.err).all()):
            return "self-check-not-finite"
        if len(x) and not np.allclose(out.probs.sum(axis=1), 1.0, atol=1e-3):
            return "self-check-probabilities"
    return None


def choose_detector(
    request: ChooseModel, models: Mapping[str, Floats], current: ModelId, evidence: Evidence, engine: Engine
) -> Chosen:
    """Choose among checked candidates, calibrate the winner.

    Parameters
    ----------
    request
        The candidates; without any, ``current`` is calibrated anew.
    models
        Weights by digest.
    current
        The model in use.
    evidence
        Rows of this device.
    engine
        Of the detecting thread.
    """
    candidates = {m.role: m for m in (request.fallback, request.expert, *request.rungs) if m is not None}
    if request.fallback is None and request.expert is None:
        detector = calibrated(current, models[current.digest], evidence, engine)
        return Chosen(detector, request.reason, None, None, len(evidence.validation))
    there: list[Step] = [step for step in ORDER if step in candidates]
    compared = compare({step: models[candidates[step].digest] for step in there}, evidence, engine)
    held = next((Held(step, request.rounds) for step in there if step == request.step), None)
    climbed = climb(
        {step: compared.losses[step] for step in there},
        compared.y,
        compared.blocks,
        weights=compared.weights,
        held=held,
    ) or Climb("fallback", "only-one")
    winner = candidates[climbed.step]
    detector = calibrated(winner, models[winner.digest], evidence, engine)
    return Chosen(detector, _slug(climbed), climbed.gain, climbed.z, len(evidence.validation))


def calibrated(model: ModelId, theta: Floats, evidence: Evidence, engine: Engine) -> Detector:
    """Return a detector with the threshold that the device's benign validation rows set.

    While these are too few, benign training rows join them: such a threshold is somewhat low, but a device without any
    could not raise an alarm. It is made anew as rows come in.
    """
    benign = evidence.validation.x[evidence.validation.y == BENIGN_INDEX]
    if len(benign) < MIN_ROWS:
        benign = np.concatenate([benign, evidence.benign_train])
    made = calibrate(
        engine.infer(theta, benign), flows_per_hour=evidence.flows_per_hour, budget_per_hour=evidence.budget_per_hour
    )
    return Detector(engine, theta, model, made or UNCALIBRATED, BenignProfile.of(evidence.benign_train))


def score_exam(detector: Detector, exam: Rows) -> ModelScore:
    """Return the confusion and the alerts of one model on labelled exam rows."""
    known = exam.select(exam.y >= 0)
    inference = detector.engine.infer(detector.theta, known.x)
    confusion = np.zeros((N_CLASSES, N_CLASSES), dtype=np.int64)
    np.add.at(confusion, (known.y, inference.probs.argmax(axis=1)), 1)
    alerted = np.bincount(known.y[decide(inference, detector.calibration).alerted], minlength=N_CLASSES)
    return ModelScore(
        model=detector.model,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        alerted=tuple(alerted.tolist()),
    )


def _row_weights(rows: Rows) -> npt.NDArray[np.float64]:
    """Return a weight per row: rare classes count more; unlabelled rows count as one."""
    by_class = class_weights(rows.y, N_CLASSES, cap=_CLASS_WEIGHT_CAP).astype(np.float64)
    return np.where(rows.y >= 0, by_class[np.maximum(rows.y, 0)], 1.0)


def _slug(climbed: Climb) -> str:
    return f"{climbed.step}-{'better' if climbed.reason == 'paired-gain' else climbed.reason}"
