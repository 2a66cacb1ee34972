"""Fusion, calibration and decisions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.features import N_FEATURES, NAMES
from contract.model import DEFAULT_SPEC, ModelId
from contract.taxonomy import BENIGN_INDEX, CLASS_INDEX, N_CLASSES
from device_agent.detection.calibration import CEILING, MIN_ROWS, UNCALIBRATED, Calibration, calibrate
from device_agent.detection.detector import ANOMALY, Detector, decide
from device_agent.detection.profile import BenignProfile
from device_agent.detection.scores import fuse
from device_agent.inference.engine import Inference
from device_agent.inference.numpy_engine import NumpyEngine
from tests.unit.device_agent.nets import REAL, batch


def inference(p_benign, err, attack="scan"):
    """Rows whose remaining probability lies on one attack class."""
    p_benign = np.asarray(p_benign, dtype=np.float32)
    probs = np.zeros((len(p_benign), N_CLASSES), dtype=np.float32)
    probs[:, BENIGN_INDEX] = p_benign
    probs[:, CLASS_INDEX[attack]] = 1 - p_benign
    return Inference(probs, np.asarray(err, dtype=np.float32))


def calibration(threshold=0.5, err_reference=1.0):
    return Calibration(threshold, err_reference, 100, 100.0, 1.0)


def test_the_larger_of_both_views_is_the_score():
    scores = fuse(inference([0.9, 0.9, 0.1], [0.0, 2.0, 0.1]), err_reference=1.0)
    np.testing.assert_allclose(scores.p_attack, [0.1, 0.1, 0.9], atol=1e-6)
    np.testing.assert_allclose(scores.anomaly, [0.0, 0.8, 0.01 / 1.01], atol=1e-6)
    np.testing.assert_array_equal(scores.score, np.maximum(scores.p_attack, scores.anomaly))


def test_an_error_at_the_reference_scores_one_half():
    assert fuse(inference([1.0], [0.37]), err_reference=0.37).anomaly[0] == pytest.approx(0.5)


def test_without_a_reference_the_reconstruction_says_nothing():
    assert fuse(inference([0.9], [1e9]), None).score[0] == pytest.approx(0.1)


def test_very_sure_and_very_small_probabilities_stay_distinct():
    """Ties at 0 or 1 would make a threshold jump over many rows at once."""
    sure = fuse(inference([1e-9, 1e-8], [0, 0]), None).score
    assert sure[0] > sure[1]
    assert sure.max() < 1.0
    probs = np.zeros((2, N_CLASSES), np.float32)
    probs[:, BENIGN_INDEX] = 1.0
    probs[:, 1] = [1e-9, 1e-8]
    assert np.diff(fuse(Inference(probs, np.zeros(2, np.float32)), None).score)[0] > 0


@given(
    p=st.floats(0, 1, width=32),
    err=st.floats(0, 1e30),
    reference=st.floats(1e-9, 1e6),
)
def test_scores_stay_in_range_and_grow_with_both_views(p, err, reference):
    low, high = (fuse(inference([p], [e]), reference) for e in (err, err * 1.1))
    assert 0.0 <= low.score[0] <= high.score[0] <= 1.0
    more = fuse(inference([p * 0.9], [err]), reference)
    assert more.score[0] >= low.score[0]


def test_alerts_fire_at_the_threshold_itself():
    seen = inference([0.5, 0.75], [0, 0])
    assert decide(seen, calibration(threshold=0.5)).alerted.tolist() == [True, False]


def test_classes_of_alerts():
    """Silent rows are benign; what the reconstruction alone found is an anomaly; benign never wins an alert."""
    seen = inference([0.95, 0.4, 0.9, 0.55], [0.1, 0.1, 5.0, 0.1], attack="bruteforce")
    decision = decide(seen, calibration(threshold=0.4))
    assert decision.alerted.tolist() == [False, True, True, True]
    assert decision.class_index.tolist() == [
        BENIGN_INDEX,
        CLASS_INDEX["bruteforce"],
        CLASS_INDEX["other_attack"],
        CLASS_INDEX["bruteforce"],
    ]
    assert decision.by_reconstruction.tolist() == [False, False, True, False]
    assert [decision.attack_class(row) for row in (1, 2)] == ["bruteforce", ANOMALY]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(MIN_ROWS, 400),
    budget=st.floats(0, 50),
    rate=st.floats(1, 10_000),
)
def test_the_calibrated_rows_themselves_stay_within_the_budget(seed, n, budget, rate):
    """No more rows fire than the budget's share or the rows above the ceiling, ties and heavy tails included."""
    rng = np.random.default_rng(seed)
    p_benign = np.round(1 - rng.beta(0.1, 3, n), 2)
    err = np.round(rng.lognormal(0, 2, n), 1)
    seen = inference(p_benign, err)
    found = calibrate(seen, flows_per_hour=rate, budget_per_hour=budget)
    alarms = decide(seen, found).alerted.sum()
    above_ceiling = (fuse(seen, None).score >= CEILING).sum()
    assert alarms <= max(budget / rate * n + 1e-9, above_ceiling)
    assert found.threshold <= CEILING
    assert found.expected_per_hour == pytest.approx(alarms / n * rate)


def test_the_budget_is_used_where_there_is_room():
    """Ten of a thousand rows may fire: about ten do, and not for a margin's sake none."""
    rng = np.random.default_rng(1)
    seen = inference(1 - rng.uniform(0, 0.3, 1000), rng.uniform(0, 0.1, 1000))
    found = calibrate(seen, flows_per_hour=1000, budget_per_hour=10)
    assert 8 <= decide(seen, found).alerted.sum() <= 10


def test_a_heavy_tail_of_the_reconstruction_does_not_blunt_the_classifier():
    """A few benign flows that reconstruct badly leave a threshold that a sure classifier passes easily."""
    rng = np.random.default_rng(2)
    err = rng.lognormal(0, 2.5, 2000)
    seen = inference(1 - rng.uniform(0, 0.05, 2000), err)
    found = calibrate(seen, flows_per_hour=2000, budget_per_hour=0.5)
    assert found.threshold < 0.6


def test_one_wrong_label_does_not_blind_the_detector():
    """A benign row that is an attack for sure, and looks like none of the others, changes nothing but the forecast."""
    rng = np.random.default_rng(6)
    p_benign, err = 1 - rng.uniform(0, 0.3, 80), rng.uniform(0.001, 0.01, 80)
    clean = calibrate(inference(p_benign, err), flows_per_hour=3600, budget_per_hour=2)
    p_benign[11], err[11] = 1e-6, 1.5
    spoiled = calibrate(inference(p_benign, err), flows_per_hour=3600, budget_per_hour=2)
    assert spoiled.threshold == pytest.approx(clean.threshold, abs=0.02)
    assert spoiled.err_reference == pytest.approx(clean.err_reference, rel=0.05)
    assert (clean.expected_per_hour, spoiled.expected_per_hour) == (0.0, 45.0)


def test_a_model_that_calls_everything_an_attack_keeps_the_ceiling():
    found = calibrate(inference(np.full(60, 1e-4), np.ones(60)), flows_per_hour=600, budget_per_hour=1)
    assert (found.threshold, found.err_reference, found.expected_per_hour) == (CEILING, None, 600.0)


def test_a_stricter_budget_never_lowers_the_threshold():
    rng = np.random.default_rng(3)
    seen = inference(1 - rng.beta(0.5, 5, 800), rng.lognormal(0, 1, 800))
    found = [calibrate(seen, flows_per_hour=800, budget_per_hour=b).threshold for b in (200, 40, 8, 1, 0.1)]
    assert found == sorted(found)


def test_below_one_expected_alarm_a_margin_stands_above_every_row():
    seen = inference(np.linspace(1, 0.8, 100), np.full(100, 0.01))
    found = calibrate(seen, flows_per_hour=3600, budget_per_hour=1)
    worst = fuse(seen, found.err_reference).score.max()
    assert found.threshold == pytest.approx(worst + 0.1 * (1 - worst))
    assert found.benign_seconds == pytest.approx(100.0)


def test_budgets_share_the_tail_between_both_views():
    """Half of the allowed rows may fire through the reconstruction alone."""
    rng = np.random.default_rng(4)
    err = rng.uniform(0, 1, 1000)
    found = calibrate(inference(np.ones(1000), err), flows_per_hour=1000, budget_per_hour=20)
    assert (err.astype(np.float32) > found.err_reference).sum() == 10


@pytest.mark.parametrize(("n", "rate"), [(MIN_ROWS - 1, 100.0), (100, 0.0), (100, math.nan)])
def test_too_little_evidence_gives_no_calibration(n, rate):
    assert calibrate(inference(np.ones(n), np.ones(n)), flows_per_hour=rate, budget_per_hour=1) is None


def test_rows_that_reconstruct_exactly_do_not_divide_by_zero():
    found = calibrate(inference(np.ones(60), np.zeros(60)), flows_per_hour=60, budget_per_hour=1)
    assert found.err_reference > 0
    assert not decide(inference(np.ones(60), np.zeros(60)), found).alerted.any()


def test_uncalibrated_models_alert_only_when_very_sure():
    decision = decide(inference([0.5, 0.02, 0.005], [1e6, 1e6, 0]), UNCALIBRATED)
    assert decision.alerted.tolist() == [False, False, True]


def test_top_features_are_those_farthest_from_the_devices_benign_traffic():
    rng = np.random.default_rng(5)
    benign = rng.normal(1.0, 0.2, (500, N_FEATURES)).astype(np.float32)
    benign[:, 7] = 0.0  # constant: must not win by division
    row = benign.mean(axis=0)
    row[3] += 2.0
    row[40] -= 1.0
    row[7] += 0.01
    profile = BenignProfile.of(benign)
    assert profile.top_features(row)[:2] == (NAMES[3], NAMES[40])
    assert len(profile.top_features(row)) == 3
    assert BenignProfile.of(benign[:0]) is None


def test_a_detector_judges_with_its_own_weights_and_threshold():
    b = batch(REAL, 20)
    detector = Detector(
        NumpyEngine(REAL), b.theta, ModelId(role="fallback", digest="a" * 64), calibration(threshold=0.0)
    )
    decision = detector.judge(b.x)
    assert decision.alerted.all()
    expected = NumpyEngine(DEFAULT_SPEC.layout).infer(b.theta, b.x)
    np.testing.assert_allclose(decision.scores.p_attack, 1 - expected.probs[:, BENIGN_INDEX], atol=1e-6)


def test_scores_between_both_thresholds_linger_under_the_name_they_would_have():
    """Half the odds of 0.8 are those of two thirds."""
    made = calibration(threshold=0.8)
    assert made.clear_threshold == pytest.approx(2 / 3)
    decision = decide(inference([0.1, 0.3, 0.4, 0.9], [0, 0, 0, 1.5], attack="c2_beacon"), made)
    assert decision.alerted.tolist() == [True, False, False, False]
    assert decision.lingering.tolist() == [False, True, False, True]
    assert [decision.attack_class(row) for row in (0, 1, 3)] == ["c2_beacon", "c2_beacon", ANOMALY]
    assert decision.class_index[2] == BENIGN_INDEX


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.5, 0.95, 0.99, 1.0, 1.5])
def test_the_clear_threshold_lies_below_and_a_silent_model_has_none(threshold):
    clear = calibration(threshold=threshold).clear_threshold
    assert clear < threshold if 0.0 < threshold < 1.0 else clear == threshold
