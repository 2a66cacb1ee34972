"""Losses of rows, paired gains, and the choice between two rungs."""

import numpy as np
import pytest

from device_agent.inference.engine import Inference
from device_agent.ladder import MIN_ROWS, paired_gain, row_losses
from device_agent.rungs import Climb, climb


def case(*, n=400, gain=0.1, noise=0.05, **options):
    """Losses of two rungs; the upper is better by ``gain``."""
    rng = np.random.default_rng(0)
    default = rng.uniform(0.5, 1.5, n)
    other = default * (1 - gain) + rng.normal(0, noise, n)
    y = np.arange(n, dtype=np.int32) % 2
    arguments = {"losses": {"expert": default, "fallback": other}, "y": y, "blocks": np.arange(n) // 10}
    return climb(**{**arguments, **options})


def test_the_other_model_wins_on_paired_evidence_only():
    won = case(gain=0.1)
    assert (won.step, won.reason) == ("fallback", "paired-gain")
    assert won.gain == pytest.approx(0.1, abs=0.02)
    assert won.z > 1
    assert case(gain=-0.1).step == "expert"
    assert case(gain=0.0, noise=0.001).step == "expert"


def test_two_per_cent_are_needed_however_sure_they_are():
    assert case(gain=0.015, noise=1e-4).step == "expert"
    assert case(gain=0.025, noise=1e-4).step == "fallback"


@pytest.mark.parametrize("attacks", [0, 4])
def test_rows_with_hardly_an_attack_cannot_unseat_the_default(attacks):
    """On benign rows the model that never raises an alert looks best."""
    benign = np.zeros(400, dtype=np.int32)
    benign[:attacks] = 3
    assert case(gain=0.5, y=benign) == Climb("expert", "one-class")
    unlabelled = np.where(np.arange(400) % 2, -1, 0).astype(np.int32)
    assert case(gain=0.5, y=unlabelled).reason == "one-class"


def test_a_gain_that_noise_explains_is_not_enough():
    rng = np.random.default_rng(3)
    n = 200
    fallback = np.ones(n) - 0.03 + 5.0 * np.resize([1.0, -1.0], n) + rng.normal(0, 0.01, n)
    two = np.arange(n, dtype=np.int32) % 2
    found = climb({"expert": np.ones(n), "fallback": fallback}, two, np.arange(n))
    assert found.gain > 0.02
    assert found.z < 1
    assert (found.step, found.reason) == ("expert", "default")


def test_one_lucky_block_is_one_witness():
    """A hundred flows of one block that all prefer the other model weigh as one, not as a hundred."""
    n = 400
    expert, fallback = np.ones(n), np.ones(n)
    fallback[:100] = 0.5
    blocks = np.concatenate([np.zeros(100), 1 + np.arange(300) // 100]).astype(np.int64)
    gain, z = paired_gain(expert, fallback, blocks, np.ones(n))
    _, z_alone = paired_gain(expert, fallback, np.arange(n), np.ones(n))
    assert gain == pytest.approx(0.125)
    assert z < 1.3
    assert z_alone > 10
    assert paired_gain(expert, fallback, np.zeros(n, np.int64), np.ones(n))[1] == 0.0


def test_the_error_is_the_usual_one_when_rows_are_independent():
    rng = np.random.default_rng(4)
    difference = rng.normal(0.1, 1.0, 500)
    _, z = paired_gain(difference + 3, np.full(500, 3.0), np.arange(500), np.ones(500))
    assert z == pytest.approx(difference.mean() / (difference.std() / np.sqrt(500)), rel=1e-6)


def test_weights_decide_whose_loss_counts():
    expert, fallback = np.ones(200), np.ones(200)
    fallback[::2] += 0.5
    fallback[1::2] -= 0.5 - 0.01
    weights = np.where(np.arange(200) % 2, 9.0, 1.0)
    gain, _ = paired_gain(expert, fallback, np.arange(200), weights)
    assert gain == pytest.approx((0.9 * 0.49) - (0.1 * 0.5))


def test_too_few_rows_keep_the_default():
    assert case(n=MIN_ROWS - 1) == Climb("expert", "few-rows")


def test_unlabelled_rows_are_no_class():
    assert case(y=np.concatenate([np.full(2, -1), np.arange(398) % 2]).astype(np.int32)).reason == "paired-gain"


def test_what_is_not_there_is_not_chosen():
    n = 300
    two = np.arange(n, dtype=np.int32) % 2
    assert climb({"fallback": np.ones(n)}, two, np.arange(n)) == Climb("fallback", "only-one")
    assert climb({}, two, np.arange(n)) is None


def test_equal_models_give_no_gain_and_finite_figures():
    n = 300
    two = np.arange(n, dtype=np.int32) % 2
    found = climb({"expert": np.ones(n), "fallback": np.ones(n)}, two, np.arange(n))
    assert found == Climb("expert", "default", 0.0, 0.0)
    better = climb({"expert": np.ones(n), "fallback": np.ones(n) / 2}, two, np.arange(n))
    assert (better.step, better.gain, better.z) == ("fallback", 0.5, 99.0)


def test_row_losses_follow_what_training_minimises():
    probs = np.array([[0.5, 0.5], [0.9, 0.1], [0.25, 0.75], [1.0, 0.0]], np.float32)
    seen = Inference(probs, np.array([0.2, 0.4, 0.6, 0.8], np.float32))
    found = row_losses(seen, np.array([0, 1, -1, 1], np.int32), recon_weight=0.5)
    np.testing.assert_allclose(found, [np.log(2) + 0.1, -np.log(0.1), 0.3, -np.log(1e-7)], rtol=1e-5)
