"""Figures of merit from the counts that devices report. Everything rests on held-out exam flows."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from contract.taxonomy import BENIGN_INDEX, CLASSES

Counts = Sequence[Sequence[int]]
_S_PER_HOUR = 3_600.0


def f1_per_class(confusion: Counts) -> dict[str, float]:
    """Return F1 of each class that occurs in the truth.

    Parameters
    ----------
    confusion
        Shape ``(K, K)``, K = classes of the taxonomy; rows = truth, columns = prediction.

    Returns
    -------
    dict
        Class name to ``2 TP / (2 TP + FP + FN)``, in ``[0, 1]``.

    Raises
    ------
    ValueError
        If the matrix has another shape.
    """
    counts = _square(confusion)
    truth, predicted, hit = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
    return {CLASSES[k]: float(2 * hit[k] / (truth[k] + predicted[k])) for k in np.flatnonzero(truth)}


def macro_f1(confusion: Counts) -> float | None:
    """Return the plain mean of F1 over the classes that occur in the truth; ``None`` without any row.

    A prediction of a class that does not occur counts as a miss of the true class and adds no term of its own, as with
    scikit-learn's ``f1_score(labels=<classes in the truth>, average="macro")``.
    """
    values = list(f1_per_class(confusion).values())
    return float(np.mean(values)) if values else None


def recall_per_attack(confusion: Counts, alerted: Sequence[int]) -> dict[str, tuple[int, int]]:
    """Return ``(flows that raised an alert, flows)`` for each attack class that occurs in the truth.

    Parameters
    ----------
    confusion
        As in :func:`f1_per_class`.
    alerted
        Exam rows of each true class whose score reached the device's threshold, in taxonomy order.

    Raises
    ------
    ValueError
        If a class has more alerts than rows, or the lengths differ from the taxonomy.
    """
    truth = _square(confusion).sum(axis=1)
    hits = _per_class(alerted)
    if (hits > truth).any():
        raise ValueError("a class has more alerted rows than rows")
    return {CLASSES[k]: (int(hits[k]), int(truth[k])) for k in np.flatnonzero(truth) if k != BENIGN_INDEX}


def false_alarms(alerted: Sequence[int]) -> int:
    """Return how many benign exam flows raised an alert."""
    return int(_per_class(alerted)[BENIGN_INDEX])


def false_alarms_per_hour(alerted: Sequence[int], exam_s: float) -> float | None:
    """Return benign flows that raised an alert per hour of exam traffic; ``None`` without exam time.

    Parameters
    ----------
    alerted
        As in :func:`recall_per_attack`.
    exam_s
        Packet time that the exam covers, in seconds.
    """
    return false_alarms(alerted) * _S_PER_HOUR / exam_s if exam_s > 0 else None


def _square(confusion: Counts) -> npt.NDArray[np.int64]:
    counts = np.asarray(confusion, dtype=np.int64)
    if counts.shape != (len(CLASSES), len(CLASSES)):
        raise ValueError(f"a confusion matrix of shape {counts.shape}; {len(CLASSES)} classes each way are expected")
    return counts


def _per_class(alerted: Sequence[int]) -> npt.NDArray[np.int64]:
    counts = np.asarray(alerted, dtype=np.int64)
    if counts.shape != (len(CLASSES),):
        raise ValueError(f"alert counts of shape {counts.shape}; one per class is expected")
    return counts
