"""How jobs are trained, and what leaves a device in private mode."""

import numpy as np
import pytest

from contract.messages import TrainTarget
from device_agent.facts import Job
from device_agent.learner import protect, train_settings
from tests.unit.gateway.builders import task

TASK = task("cam-1", 1)
PRIVATE = TASK.model_copy(update={"clip_norm": 2.0, "noise_multiplier": 0.5})


def test_without_private_mode_an_update_leaves_as_it_is():
    delta = np.ones(9, dtype=np.float32)
    assert protect(delta, TASK, np.random.default_rng(0)) is delta


@pytest.mark.parametrize(("length", "kept"), [(10.0, 2.0), (0.5, 0.5), (0.0, 0.0)])
def test_an_update_is_shortened_to_the_norm_before_the_noise(length, kept):
    """The mean over many draws is the clipped update."""
    n = 400
    direction = np.ones(n) / np.sqrt(n)
    draws = [protect((direction * length).astype(np.float32), PRIVATE, np.random.default_rng(i)) for i in range(300)]
    assert np.mean(draws, axis=0) @ direction == pytest.approx(kept, abs=4 * 1.0 / np.sqrt(300))


def test_the_noise_has_the_stated_spread():
    noisy = protect(np.zeros(20_000, dtype=np.float32), PRIVATE, np.random.default_rng(0))
    assert noisy.std() == pytest.approx(0.5 * 2.0, rel=0.02)
    assert noisy.dtype == np.float32


@pytest.mark.parametrize(("role", "family_id", "own"), [("fallback", None, False), ("expert", "family-1", True)])
def test_only_an_expert_is_trained_over_the_classes_of_the_device(role, family_id, own):
    target = TrainTarget(role=role, family_id=family_id, base="0" * 64)
    settings = train_settings(Job(key="k", base=target.base, task=TASK, target=target))
    assert settings.mask_absent == own
    assert settings.epochs == TASK.local_epochs


@pytest.mark.parametrize("own_classes", [False, True])
def test_a_fine_tuning_is_over_the_classes_that_its_job_says(own_classes):
    job = Job(key="k", base="0" * 64, kind="fine-tuned", own_classes=own_classes)
    assert train_settings(job).mask_absent == own_classes
