"""Training says nothing about classes that a device never saw."""

import numpy as np
import pytest

from contract.initial import initial_theta
from contract.layout import Layout
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.training.absent import LOWERED_BY, absent_offset, shifted
from device_agent.training.trainer import TrainData, TrainSettings, train

LAYOUT = Layout(6, 5, (8,), 16)


def rows(classes, n=64, seed=3):
    rng = np.random.default_rng(seed)
    y = rng.choice(np.array(classes, dtype=np.int32), n)
    return TrainData((rng.random((n, 6)) + 0.3 * y[:, None]).astype(np.float32), y)


def outputs_of(theta):
    """Classifier weights, shape (8, K), and bias."""
    cuts = LAYOUT.slices()
    where, shape = cuts["classifier.weight"]
    return theta[where].reshape(shape), theta[cuts["classifier.bias"][0]]


def test_absent_classes_are_lowered_and_unlabelled_rows_name_no_class():
    offset = absent_offset(np.array([0, 2, 2, -1], dtype=np.int32), 5)
    assert offset.tolist() == [0.0, -LOWERED_BY, 0.0, -LOWERED_BY, -LOWERED_BY]


@pytest.mark.parametrize("labels", [[0, 0], [-1, -1], [-1, 3]])
def test_a_single_class_is_trained_against_all_others(labels):
    assert not absent_offset(np.array(labels, dtype=np.int32), 5).any()


def test_the_weights_themselves_are_not_lowered():
    theta = initial_theta(LAYOUT, 1)
    offset = absent_offset(np.array([0, 1], dtype=np.int32), 5)
    moved = shifted(theta, offset, LAYOUT)
    assert moved is not theta
    np.testing.assert_array_equal(
        np.flatnonzero(moved - theta),
        np.arange(LAYOUT.slices()["classifier.bias"][0].start, LAYOUT.slices()["classifier.bias"][0].stop)[2:],
    )
    assert shifted(theta, np.zeros(5, dtype=np.float32), LAYOUT) is theta


@pytest.mark.parametrize(("mask", "still"), [(True, True), (False, False)])
def test_what_the_model_knows_of_absent_classes_stays(mask, still):
    """Trained with the mask, the outputs of classes without rows hardly move; without it they do."""
    theta = initial_theta(LAYOUT, 1)
    result = train(NumpyEngine(LAYOUT), theta, rows([0, 2]), TrainSettings(epochs=10, mask_absent=mask))
    moved = np.abs(outputs_of(result.theta)[1] - outputs_of(theta)[1])
    assert (moved[[1, 3, 4]].max() < 0.05 * moved[[0, 2]].min()) == still


def test_with_all_classes_the_mask_changes_nothing():
    theta, data = initial_theta(LAYOUT, 1), rows([0, 1, 2, 3, 4])
    both = [train(NumpyEngine(LAYOUT), theta, data, TrainSettings(mask_absent=m)).theta for m in (True, False)]
    np.testing.assert_array_equal(*both)
