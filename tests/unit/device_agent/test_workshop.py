"""What the device makes of a training of its own."""

from types import SimpleNamespace

import numpy as np
import pytest

from contract.initial import initial_theta
from contract.model import DEFAULT_SPEC
from device_agent.training.optimizer import OptimizerSettings
from device_agent.training.trainer import TrainData, TrainSettings, train
from device_agent.workshop import Workshop
from tests.unit.device_agent.test_choosing import ENGINE, SCAN, evidence, joined, rows


class Memory:
    """Keeps models, and nothing else of the agent's memory."""

    def __init__(self):
        self.models = {}
        self.state = SimpleNamespace(keep_model=lambda model: None)


def workshop(held):
    parts = SimpleNamespace(spec=DEFAULT_SPEC, engine=ENGINE, memory=Memory(), evidence=lambda: held)
    return Workshop(parts, np.random.default_rng(0)), parts.memory.models


def outcome(base, theta, kind):
    job = SimpleNamespace(kind=kind, base="b" * 64)
    return SimpleNamespace(job=job, base=base, finished=SimpleNamespace(result=SimpleNamespace(theta=theta)))


@pytest.fixture(scope="module")
def trained():
    start = initial_theta(DEFAULT_SPEC.layout, 1)
    both = joined(rows(200, 0, 5), rows(200, SCAN, 6))
    settings = TrainSettings(epochs=10, optimizer=OptimizerSettings(learning_rate=5e-3))
    return start, train(ENGINE, start, TrainData(both.x, both.y), settings).theta


def kept(base, theta, kind="fine-tuned", held=None):
    made, models = workshop(held or evidence())
    digest = made.keep_rung(outcome(base, theta, kind)).digest
    return models[digest].weights


def test_a_fine_tuned_model_that_overshot_is_kept_half_way(trained):
    """Twice as far as training went: half way is the trained model itself, and better on the validation rows."""
    start, good = trained
    np.testing.assert_allclose(kept(start, start + 2.0 * (good - start)), good, atol=1e-5)


def test_one_that_did_not_is_kept_whole(trained):
    np.testing.assert_array_equal(kept(*trained), trained[1])


def test_without_rows_to_judge_by_and_for_other_models_nothing_is_blended(trained):
    start, good = trained
    far = start + 2.0 * (good - start)
    np.testing.assert_array_equal(kept(start, far, held=evidence(20, 10)), far)
    np.testing.assert_array_equal(kept(start, far, kind="local"), far)
