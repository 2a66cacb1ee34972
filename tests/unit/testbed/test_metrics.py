"""The figures of merit agree with scikit-learn and with counts made by hand."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from contract.taxonomy import CLASSES, N_CLASSES
from testbed import metrics


def confusion(pairs):
    counts = np.zeros((N_CLASSES, N_CLASSES), dtype=int)
    for truth, predicted in pairs:
        counts[truth, predicted] += 1
    return counts.tolist()


@pytest.mark.parametrize("seed", range(12))
def test_macro_f1_equals_scikit_learn_over_the_classes_in_the_truth(seed):
    rng = np.random.default_rng(seed)
    present = rng.choice(N_CLASSES, size=rng.integers(1, 6), replace=False)
    truth = rng.choice(present, size=200)
    predicted = np.where(rng.random(200) < 0.6, truth, rng.integers(0, N_CLASSES, 200))
    wanted = f1_score(truth, predicted, labels=sorted(set(truth.tolist())), average="macro", zero_division=0)
    assert metrics.macro_f1(confusion(zip(truth, predicted, strict=True))) == pytest.approx(wanted, abs=1e-12)


def test_a_device_without_attacks_is_judged_on_benign_alone():
    counts = confusion([(0, 0)] * 9 + [(0, 1)])
    assert metrics.f1_per_class(counts) == {"benign": pytest.approx(18 / 19)}


def test_without_exam_rows_there_is_no_figure():
    assert metrics.macro_f1(confusion([])) is None
    assert metrics.false_alarms_per_hour([0] * N_CLASSES, 0.0) is None


def test_recall_counts_alerts_not_class_predictions():
    scan, flood = CLASSES.index("scan"), CLASSES.index("dos_flood")
    counts = confusion([(0, 0)] * 50 + [(scan, flood)] * 4 + [(flood, flood)] * 6)
    alerted = [0] * N_CLASSES
    alerted[0], alerted[scan], alerted[flood] = 3, 4, 5
    assert metrics.recall_per_attack(counts, alerted) == {"scan": (4, 4), "dos_flood": (5, 6)}
    assert metrics.false_alarms(alerted) == 3
    assert metrics.false_alarms_per_hour(alerted, 600.0) == pytest.approx(18.0)


def test_more_alerts_than_rows_is_refused():
    alerted = [0] * N_CLASSES
    alerted[1] = 2
    with pytest.raises(ValueError, match="more alerted rows than rows"):
        metrics.recall_per_attack(confusion([(1, 1)]), alerted)


def test_a_matrix_of_another_taxonomy_is_refused():
    with pytest.raises(ValueError, match="10 classes"):
        metrics.macro_f1([[1, 0], [0, 1]])
