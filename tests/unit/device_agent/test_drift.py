"""Drift of a device's own benign traffic."""

import numpy as np
import pytest

from device_agent.drift import WINDOWS, DriftMemory, judge_window


def window(seed, shift=0.0, n=200):
    return (1.5 + shift + 0.1 * np.random.default_rng(seed).normal(size=(n, 10))).astype(np.float32)


@pytest.fixture
def learnt():
    memory = DriftMemory()
    for seed in range(WINDOWS):
        memory, verdict = judge_window(window(seed), 0.0, memory)
        assert verdict.reason == "learning"
    return memory


def test_the_same_traffic_is_steady(learnt):
    for seed in range(100, 120):
        learnt, verdict = judge_window(window(seed), 0.0, learnt)
        assert (verdict.drifted, verdict.reason) == (False, "steady")
    assert len(learnt.windows) == WINDOWS


def test_other_traffic_is_a_drift_and_becomes_the_new_normal(learnt):
    memory, verdict = judge_window(window(9, shift=0.3), 0.0, learnt)
    assert (verdict.drifted, verdict.features) == (True, 10)
    assert len(memory.windows) == 1


def test_one_feature_is_no_drift(learnt):
    rows = window(9)
    rows[:, 0] += 1.0
    assert judge_window(rows, 0.0, learnt)[1].reason == "steady"


def test_nothing_is_judged_or_learnt_under_attack(learnt):
    memory, verdict = judge_window(window(9, shift=1.0), 0.06, learnt)
    assert verdict.reason == "frozen"
    assert memory is learnt


def test_few_rows_prove_nothing(learnt):
    assert judge_window(window(9, shift=1.0, n=20), 0.0, learnt)[1].reason == "few-rows"
