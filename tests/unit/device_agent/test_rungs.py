"""The ladder of four rungs and its patience."""

import numpy as np
import pytest

from device_agent.ladder import MIN_ROWS
from device_agent.rungs import KEEP_ROUNDS, Climb, Held, blended, climb

N = 200
Y = np.repeat(np.array([0, 1], dtype=np.int32), N // 2)
BLOCKS = np.arange(N)


def losses(mean, *, seed=0, spread=0.1):
    return np.maximum(mean + spread * np.random.default_rng(seed).normal(size=N), 0.0)


def test_the_lowest_rung_is_the_default():
    held = {"expert": losses(0.5), "fallback": losses(0.5, seed=1), "local": losses(0.6)}
    assert climb(held, Y, BLOCKS).step == "expert"
    del held["expert"]
    assert climb(held, Y, BLOCKS).step == "fallback"


def test_each_rung_must_beat_the_last_one_taken():
    """Local is better than the expert, but not than the fine-tuned model."""
    found = climb({"expert": losses(0.5), "fine-tuned": losses(0.3), "local": losses(0.4)}, Y, BLOCKS)
    assert (found.step, found.reason) == ("fine-tuned", "paired-gain")
    assert found.gain == pytest.approx(0.4, abs=0.1)


def test_luck_is_no_gain():
    """The same mean with much noise: the least loss of three is not taken."""
    noisy = {step: losses(1.0, seed=i, spread=1.0) for i, step in enumerate(("expert", "fallback", "local"))}
    found = climb(noisy, Y, BLOCKS)
    gains = {step: float(noisy["expert"].mean() - values.mean()) for step, values in noisy.items()}
    assert found.step == "expert" or gains[found.step] > 0.02


def test_few_rows_prove_nothing():
    few = slice(0, MIN_ROWS - 1)
    found = climb({"expert": losses(0.9)[few], "local": losses(0.1)[few]}, Y[few], BLOCKS[few])
    assert found == Climb("expert", "few-rows")


def test_a_rare_class_does_not_decide_by_its_weight():
    """Four rows that count fifty times as much would carry the choice; they count like any other."""
    rare = np.zeros(N, dtype=np.int32)
    rare[:4] = 1
    weights = np.where(rare == 1, 50.0, 1.0)
    expert, own = losses(0.5, spread=0.01), losses(0.6, spread=0.01)
    expert[:4], own[:4] = 3.0, 0.1
    assert climb({"expert": expert, "local": own}, rare, BLOCKS, weights=weights).step == "expert"


@pytest.mark.parametrize(("rounds", "step"), [(0, "local"), (KEEP_ROUNDS - 1, "local"), (KEEP_ROUNDS, "expert")])
def test_a_choice_is_kept_for_two_rounds(rounds, step):
    found = climb({"expert": losses(0.3), "local": losses(0.5)}, Y, BLOCKS, held=Held("local", rounds))
    assert found.step == step


def test_a_model_that_is_gone_is_not_kept():
    found = climb({"fallback": losses(0.3), "local": losses(0.5)}, Y, BLOCKS, held=Held("expert", 0))
    assert found.step == "fallback"


def test_no_model_no_choice():
    assert climb({}, Y, BLOCKS) is None
    assert climb({"fallback": losses(1.0)}, Y, BLOCKS) == Climb("fallback", "only-one")


def test_a_blend_lies_between_the_two_models_and_leaves_both_alone():
    base, tuned = np.zeros(3, dtype=np.float32), np.array([1.0, -2.0, 4.0], dtype=np.float32)
    assert blended(base, tuned, 0.5).tolist() == [0.5, -1.0, 2.0]
    assert blended(base, tuned, 1.0) is tuned
    assert not base.any()
