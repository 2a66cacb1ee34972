"""The batched computation is the device's, for many devices at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.initial import initial_theta
from contract.layout import Layout
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.training.optimizer import Optimizer, OptimizerSettings
from testbed.simulation.fleet import PADDING, Share, pack
from testbed.simulation.local import LocalSettings, Trainer, adam_step
from testbed.simulation.net import BatchedNet

LAYOUT = Layout(7, 4, (6, 5), 8)


def batch(seed, n=3, rows=8):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.0, 3.0, (n, rows, 7)).astype(np.float32)
    y = rng.integers(-1, 4, (n, rows)).astype(np.int32)
    wc, wr = rng.uniform(0.0, 2.0, (2, n, rows)).astype(np.float32)
    theta = np.stack([initial_theta(LAYOUT, seed + i) for i in range(n)])
    return theta, x, y, wc, wr


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_gradients_are_those_of_the_device_engine(seed):
    theta, x, y, wc, wr = batch(seed)
    found = BatchedNet(LAYOUT, decoder=True).gradient(theta, x, y, wc, wr, recon_weight=0.5)
    engine = NumpyEngine(LAYOUT)
    for i in range(len(theta)):
        expected = engine.gradient(theta[i], x[i], y[i], wc[i], wr[i], recon_weight=0.5).grad
        np.testing.assert_allclose(found[i], expected, rtol=1e-3, atol=2e-5)


def test_without_the_decoder_it_is_the_classifier_part():
    theta, x, y, wc, wr = batch(1)
    net = BatchedNet(LAYOUT)
    found = net.gradient(theta[:, : net.n_parameters], x, y, wc)
    whole = BatchedNet(LAYOUT, decoder=True).gradient(theta, x, y, wc, wr, recon_weight=0.0)
    np.testing.assert_allclose(found, whole[:, : net.n_parameters], rtol=1e-4, atol=1e-6)
    assert not whole[:, net.n_parameters :].any()


def test_probabilities_are_those_of_the_device_engine():
    theta, x, *_ = batch(2, n=70, rows=3)
    net = BatchedNet(LAYOUT)
    found = net.probabilities(theta[:, : net.n_parameters], x)
    engine = NumpyEngine(LAYOUT)
    for i in (0, 63, 64, 69):
        np.testing.assert_allclose(found[i], engine.infer(theta[i], x[i]).probs, rtol=1e-4, atol=1e-6)


def test_adam_steps_are_those_of_the_device_optimizer():
    rng = np.random.default_rng(3)
    theta = rng.normal(size=(2, 9)).astype(np.float32)
    start = theta.copy()
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    ones = [Optimizer(start[i], OptimizerSettings(learning_rate=0.01)) for i in range(2)]
    for step in range(1, 6):
        grad = rng.normal(size=theta.shape).astype(np.float32)
        adam_step(theta, grad, first, second, step, 0.01)
        for i, one in enumerate(ones):
            one.step(grad[i])
    np.testing.assert_allclose(theta, [one.theta for one in ones], rtol=1e-5)


def trainer(seed=0):
    rng = np.random.default_rng(seed)
    rows = [(rng.uniform(0.0, 3.0, (n, 7)).astype(np.float32), rng.integers(0, 4, n).astype(np.int32)) for n in (9, 30)]
    return Trainer(BatchedNet(LAYOUT), pack(rows))


def test_training_is_deterministic_and_leaves_its_input_alone():
    work = trainer()
    theta = np.stack([work.net.initial(i) for i in range(2)])
    before = theta.copy()
    runs = [work.run(theta, np.arange(2), 7, LocalSettings(), np.random.default_rng(5)) for _ in range(2)]
    assert runs[0].tobytes() == runs[1].tobytes()
    assert np.array_equal(theta, before)
    assert not np.array_equal(runs[0], before)


def test_padding_is_never_drawn():
    """A device of nine rows beside one of thirty: what lies in its padding has no effect."""
    one, other = trainer(), trainer()
    other.share.x[0, 9:] = np.nan
    theta = np.stack([one.net.initial(i) for i in range(2)])
    found = [w.run(theta, np.arange(2), 5, LocalSettings(), np.random.default_rng(1)) for w in (one, other)]
    assert np.array_equal(found[0], found[1])
    assert one.share.rows.tolist() == [9, 30]


def test_frozen_weights_do_not_move_and_the_pull_holds_back():
    work = trainer()
    theta = np.stack([work.net.initial(i) for i in range(2)])
    mask = np.zeros(work.net.n_parameters, dtype=np.bool_)
    mask[work.net.head] = True
    found = work.run(theta, np.arange(2), 5, LocalSettings(), np.random.default_rng(1), trainable=mask)
    assert np.array_equal(found[:, ~mask], theta[:, ~mask])
    assert not np.array_equal(found[:, mask], theta[:, mask])
    free = work.run(theta, np.arange(2), 40, LocalSettings(0.02), np.random.default_rng(1))
    held = work.run(theta, np.arange(2), 40, LocalSettings(0.02, proximal_mu=10.0), np.random.default_rng(1))
    assert np.linalg.norm(held - theta) < 0.5 * np.linalg.norm(free - theta)


def test_class_weights_of_a_share_ignore_padding():
    y = np.array([[0, 0, 0, 1, PADDING], [2, 2, PADDING, PADDING, PADDING]], dtype=np.int32)
    weights = Share(np.zeros((2, 5, 7), dtype=np.float32), y).weights(4)
    assert weights[0, 3] > weights[0, 0] > 0.0
    assert weights[1, :2] == pytest.approx(1.0)
    assert not weights[y == PADDING].any()
