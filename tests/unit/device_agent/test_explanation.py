"""Which features drove a score: checked against differences of the engine's own scores."""

import numpy as np
import pytest

from contract.features import N_FEATURES, NAMES
from contract.model import CLASSIFIER_SPEC, DEFAULT_SPEC, ModelId
from contract.taxonomy import BENIGN_INDEX
from device_agent.detection.calibration import Calibration
from device_agent.detection.detector import Detector
from device_agent.detection.explanation import classifier_drivers, reconstruction_drivers, strongest
from device_agent.detection.profile import BenignProfile
from device_agent.inference.numpy_engine import NumpyEngine
from tests.unit.device_agent.nets import AUTOENCODER, CLASSIFIER, DEEP, REAL, SHALLOW, TINY, batch


@pytest.mark.parametrize("layout", [TINY, DEEP, SHALLOW, CLASSIFIER], ids=str)
def test_the_classifiers_drivers_are_slopes_times_deviations(layout):
    """Slopes by central differences of -log p(benign), in float64."""
    engine, b = NumpyEngine(layout), batch(layout, 1, seed=3)
    row, usual = b.x[0], np.full(layout.inputs, 0.7, np.float32)

    def surprise(x):
        probs = engine.infer(b.theta, x.astype(np.float32)[None, :]).probs
        return -np.log(float(probs[0, BENIGN_INDEX]))

    step = 1e-2
    slopes = [
        (surprise(row + step * unit) - surprise(row - step * unit)) / (2 * step) for unit in np.eye(layout.inputs)
    ]
    found = classifier_drivers(engine, b.theta, row, usual)
    np.testing.assert_allclose(found, np.array(slopes) * (row - usual), atol=5e-3)


@pytest.mark.parametrize("layout", [TINY, DEEP, SHALLOW, AUTOENCODER], ids=str)
def test_the_reconstructions_drivers_add_up_to_the_error(layout):
    engine, b = NumpyEngine(layout), batch(layout, 6, seed=4)
    for row in b.x:
        drivers = reconstruction_drivers(engine, b.theta, row)
        assert drivers.sum() / layout.inputs == pytest.approx(engine.infer(b.theta, row[None, :]).err[0], rel=1e-5)


def test_the_strongest_come_first_and_what_pulls_back_is_left_out():
    drivers = np.zeros(N_FEATURES)
    drivers[[3, 9, 12]] = 0.5, 2.0, -7.0
    assert strongest(drivers) == (NAMES[9], NAMES[3])
    assert strongest(np.zeros(N_FEATURES)) == ()


def detector(engine, theta, profile=None):
    return Detector(engine, theta, ModelId(role="fallback", digest="a" * 64), Calibration(0.5, 1.0, 100, 1, 1), profile)


def test_the_head_that_fired_explains():
    """A classifier that looks at one feature and a decoder that misses another one."""
    theta = np.zeros(DEFAULT_SPEC.n_parameters, np.float32)
    where = {name: theta[at].reshape(shape) for name, (at, shape) in DEFAULT_SPEC.slices().items()}
    where["encoder0.weight"][5, 0] = where["encoder1.weight"][0, 0] = 1.0
    where["classifier.weight"][0, 1] = 4.0
    row = np.zeros(N_FEATURES, np.float32)
    row[5], row[8] = 2.0, 2.5
    benign = np.zeros((60, N_FEATURES), np.float32)
    made = detector(NumpyEngine(REAL), theta, BenignProfile.of(benign))
    assert made.top_features(row, by_reconstruction=False) == (NAMES[5],)
    assert made.top_features(row, by_reconstruction=True) == (NAMES[8], NAMES[5])
    assert made.profile.top_features(row)[0] == NAMES[8], "the most unusual feature moved nothing"


def test_without_a_driver_the_deviation_explains():
    """All weights 0: nothing moves the score, and an alert still says what is odd."""
    theta = np.zeros(CLASSIFIER_SPEC.n_parameters, np.float32)
    row = np.zeros(N_FEATURES, np.float32)
    row[8] = 2.5
    engine = NumpyEngine(CLASSIFIER_SPEC.layout)
    benign = np.zeros((60, N_FEATURES), np.float32)
    assert detector(engine, theta, BenignProfile.of(benign)).top_features(row, by_reconstruction=False) == (NAMES[8],)
    assert detector(engine, theta).top_features(row, by_reconstruction=False) == ()
