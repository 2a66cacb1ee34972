"""From candidates to a detector: self check, choice, calibration, exam report."""

import numpy as np
import pytest

from contract.initial import initial_theta
from contract.model import DEFAULT_SPEC, ModelId, weights_digest
from contract.taxonomy import CLASS_INDEX, N_CLASSES
from device_agent.choosing import Evidence, calibrated, choose_detector, score_exam, self_check
from device_agent.detection.calibration import UNCALIBRATED
from device_agent.effects import ChooseModel
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.samples.pool import Rows
from device_agent.samples.split import SplitSettings
from device_agent.training.optimizer import OptimizerSettings
from device_agent.training.trainer import TrainData, TrainSettings, train

ENGINE = NumpyEngine(DEFAULT_SPEC.layout)
SCAN = CLASS_INDEX["scan"]


def rows(n, label, seed):
    rng = np.random.default_rng(seed)
    centre = 1.0 if label == 0 else 2.0
    return Rows(
        x=np.clip(rng.normal(centre, 0.1, size=(n, DEFAULT_SPEC.inputs)), 0, 3).astype(np.float32),
        y=np.full(n, label, dtype=np.int32),
        start_us=np.arange(n, dtype=np.int64) * 1_000_000,
        flow_id=np.arange(n, dtype=np.uint64) + np.uint64(1000 * seed),
        source=np.full(n, 2, dtype=np.uint8),
    )


def joined(*parts):
    columns = ("x", "y", "start_us", "flow_id", "source")
    return Rows(*(np.concatenate([getattr(part, column) for part in parts]) for column in columns))


def evidence(benign=80, attacks=40, train_rows=100):
    return Evidence(
        validation=joined(rows(benign, 0, 1), rows(attacks, SCAN, 2)),
        benign_train=rows(train_rows, 0, 3).x,
        flows_per_hour=3600.0,
        budget_per_hour=1.0,
        split=SplitSettings(),
    )


@pytest.fixture(scope="module")
def weights():
    """Untrained weights as the fallback, trained ones as the expert."""
    start = initial_theta(DEFAULT_SPEC.layout, 1)
    both = joined(rows(200, 0, 5), rows(200, SCAN, 6))
    settings = TrainSettings(epochs=10, optimizer=OptimizerSettings(learning_rate=5e-3))
    return start, train(ENGINE, start, TrainData(both.x, both.y), settings).theta


def ids(weights):
    poor, good = weights
    fallback = ModelId(role="fallback", digest=weights_digest(poor))
    expert = ModelId(role="expert", family_id="family-1", digest=weights_digest(good))
    return fallback, expert, {fallback.digest: poor, expert.digest: good}


def test_good_weights_pass_the_self_check_and_bad_ones_do_not(weights):
    validation = evidence().validation
    assert self_check(ENGINE, weights[1], validation) is None
    broken = weights[1].copy()
    broken[5] = np.nan
    assert self_check(ENGINE, broken, validation) == "self-check-not-finite"
    assert self_check(ENGINE, np.full_like(broken, 1e30), validation) == "self-check-not-finite"


def test_the_better_model_is_chosen_whatever_its_role(weights):
    fallback, expert, models = ids(weights)
    chosen = choose_detector(ChooseModel(1, fallback, expert, ""), models, fallback, evidence(), ENGINE)
    assert chosen.detector.model == expert
    assert chosen.reason == "expert-default"
    swapped = {fallback.digest: models[expert.digest], expert.digest: models[fallback.digest]}
    chosen = choose_detector(ChooseModel(1, fallback, expert, ""), swapped, fallback, evidence(), ENGINE)
    assert chosen.detector.model == fallback
    assert chosen.reason == "fallback-better"
    assert chosen.gain > 0.02
    assert chosen.z >= 1
    assert chosen.validation_rows == 120


def test_a_lone_candidate_is_taken(weights):
    fallback, _, models = ids(weights)
    chosen = choose_detector(ChooseModel(1, fallback, None, ""), models, fallback, evidence(), ENGINE)
    assert (chosen.detector.model, chosen.reason, chosen.gain) == (fallback, "fallback-only-one", None)


def test_without_candidates_the_model_in_use_is_calibrated_anew(weights):
    _, expert, models = ids(weights)
    chosen = choose_detector(ChooseModel(1, None, None, "own-model"), models, expert, evidence(), ENGINE)
    assert (chosen.detector.model, chosen.reason) == (expert, "own-model")
    assert chosen.detector.calibration.n_rows == 80


def test_few_benign_validation_rows_are_joined_by_training_rows(weights):
    _, expert, models = ids(weights)
    few = calibrated(expert, models[expert.digest], evidence(benign=10), ENGINE)
    assert few.calibration.n_rows == 110
    none = calibrated(expert, models[expert.digest], evidence(benign=10, train_rows=0), ENGINE)
    assert none.calibration == UNCALIBRATED


def test_the_exam_report_counts_labelled_rows_once_and_alerts_by_class(weights):
    _, expert, models = ids(weights)
    detector = calibrated(expert, models[expert.digest], evidence(), ENGINE)
    unlabelled = rows(30, 0, 9)
    unlabelled.y[:] = -1
    score = score_exam(detector, joined(rows(50, 0, 7), rows(20, SCAN, 8), unlabelled))
    confusion = np.array(score.confusion)
    assert confusion.shape == (N_CLASSES, N_CLASSES)
    assert confusion.sum() == 70
    assert confusion[SCAN, SCAN] == 20
    assert score.alerted[SCAN] == 20
    assert score.alerted[0] <= 1
