"""Figures of merit of a simulated fleet. Hostile devices are left out of all of them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.detection.calibration import calibrate
from device_agent.detection.scores import fuse
from device_agent.inference.engine import Inference
from testbed.simulation.bench import Bench, Outcome
from testbed.simulation.fleet import PADDING
from testbed.simulation.net import Floats

Vector = npt.NDArray[np.float64]

FLOWS_PER_HOUR = 100.0
BUDGET_PER_HOUR = 1.0
_HOURS_PER_DAY = 24.0
_BINS = 10
_DECILE = 0.1


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run of one method is worth.

    Attributes
    ----------
    f1, worst_decile, outlier_f1
        Macro-F1 by device: mean, mean of the worst tenth, mean over outliers (``None`` without outliers).
    pooled_macro_f1, pooled_weighted_f1
        Of all test rows together.
    false_alarms_per_day
        By device, after calibration to 24 a day on validation rows, at 100 benign flows an hour.
    calibration_error
        Expected calibration error of the most probable class, 10 bins.
    ari
        Adjusted Rand index of the families against the truth, ``None`` where there is nothing to compare.
    families
        Families found.
    stability
        Agreement with families of subsamples.
    steps, up_bytes, down_bytes, device_s, gateway_s
        As ``Ledger``.
    rungs
        Devices by rung.
    """

    f1: float
    worst_decile: float
    outlier_f1: float | None
    pooled_macro_f1: float
    pooled_weighted_f1: float
    false_alarms_per_day: float
    calibration_error: float
    ari: float | None
    families: int
    stability: float | None
    steps: float
    up_bytes: float
    down_bytes: float
    device_s: float
    gateway_s: float
    rungs: dict[str, int]


def figures(bench: Bench, outcome: Outcome) -> Figures:
    """Measure an outcome on the test rows of the honest devices."""
    fleet = bench.fleet
    honest = np.flatnonzero(~fleet.hostile)
    probs = bench.net.probabilities(outcome.theta, fleet.test.x)[honest]
    y = fleet.test.y[honest]
    counts = confusions(y, probs.argmax(axis=2), fleet.layout.classes)
    f1 = device_macro_f1(counts)
    pooled = counts.sum(axis=0)
    outlier = fleet.outlier[honest]
    ledger, labels = outcome.ledger, outcome.labels
    true = fleet.family[honest]
    ari = None if labels is None or len(np.unique(true)) < 2 else adjusted_rand(true, labels[honest])
    worst = np.sort(f1)[: max(1, round(_DECILE * len(f1)))]
    return Figures(
        f1=float(f1.mean()),
        worst_decile=float(worst.mean()),
        outlier_f1=float(f1[outlier].mean()) if outlier.any() else None,
        pooled_macro_f1=float(device_macro_f1(pooled[None])[0]),
        pooled_weighted_f1=_weighted_f1(pooled),
        false_alarms_per_day=_false_alarms(bench, outcome.theta, honest, probs),
        calibration_error=_calibration_error(probs, y),
        ari=ari,
        families=0 if labels is None else len(np.unique(labels[labels >= 0])),
        stability=outcome.stability,
        steps=ledger.steps,
        up_bytes=ledger.up_bytes,
        down_bytes=ledger.down_bytes,
        device_s=ledger.device_s,
        gateway_s=ledger.gateway_s,
        rungs=dict(outcome.rungs),
    )


def confusions(y: npt.NDArray[np.int32], predicted: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.int64]:
    """Return a confusion matrix per device, shape ``(n, K, K)``, rows = truth; padding does not count."""
    result = np.zeros((len(y), classes, classes), dtype=np.int64)
    device, row = np.nonzero(y != PADDING)
    np.add.at(result, (device, y[device, row], predicted[device, row]), 1)
    return result


def device_macro_f1(counts: npt.NDArray[np.int64]) -> Vector:
    """Return the mean F1 over the classes in the truth of each matrix, shape ``(n,)``."""
    truth, predicted = counts.sum(axis=2), counts.sum(axis=1)
    hit = np.diagonal(counts, axis1=1, axis2=2)
    f1 = 2.0 * hit / np.maximum(truth + predicted, 1)
    present = truth > 0
    return np.asarray((f1 * present).sum(axis=1) / np.maximum(present.sum(axis=1), 1))


def adjusted_rand(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> float:
    """Return the adjusted Rand index of two partitions (Hubert and Arabie 1985); -1 is a group like any other."""
    _, i = np.unique(a, return_inverse=True)
    _, j = np.unique(b, return_inverse=True)
    table = np.zeros((i.max() + 1, j.max() + 1))
    np.add.at(table, (i, j), 1.0)
    both, rows, columns = (_pairs(counts) for counts in (table, table.sum(axis=1), table.sum(axis=0)))
    expected = rows * columns / max(len(a) * (len(a) - 1) / 2.0, 1.0)
    most = (rows + columns) / 2.0
    return 1.0 if most == expected else (both - expected) / (most - expected)


def _pairs(counts: Vector) -> float:
    return float((counts * (counts - 1.0) / 2.0).sum())


def _weighted_f1(pooled: npt.NDArray[np.int64]) -> float:
    truth, predicted, hit = pooled.sum(axis=1), pooled.sum(axis=0), np.diag(pooled)
    f1 = 2.0 * hit / np.maximum(truth + predicted, 1)
    return float((f1 * truth).sum() / max(truth.sum(), 1))


def _calibration_error(probs: Floats, y: npt.NDArray[np.int32]) -> float:
    known = y != PADDING
    sure, right = probs.max(axis=2)[known], (probs.argmax(axis=2) == y)[known]
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    size = np.bincount(bins, minlength=_BINS)
    gap = np.abs(np.bincount(bins, sure, _BINS) - np.bincount(bins, right, _BINS))
    return float(gap.sum() / max(size.sum(), 1))


def _false_alarms(bench: Bench, theta: Floats, honest: npt.NDArray[np.int64], test_probs: Floats) -> float:
    """Return benign test rows above the threshold that the device's own calibration sets, per device-day."""
    share = bench.fleet.validation
    probs = bench.net.probabilities(theta, share.x)[honest]
    per_day = []
    for k, i in enumerate(honest):
        benign = probs[k][share.y[i] == 0]
        made = calibrate(
            Inference(benign, np.zeros(len(benign), dtype=np.float32)),
            flows_per_hour=FLOWS_PER_HOUR,
            budget_per_hour=BUDGET_PER_HOUR,
        )
        if made is None:
            continue
        rows = test_probs[k][bench.fleet.test.y[i] == 0]
        fused = fuse(Inference(rows, np.zeros(len(rows), dtype=np.float32)), made.err_reference)
        per_day.append((fused.score >= made.threshold).mean() * FLOWS_PER_HOUR * _HOURS_PER_DAY)
    return float(np.mean(per_day)) if per_day else float("nan")
