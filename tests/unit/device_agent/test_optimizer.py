"""Optimisers against formulas in float64 written out."""

import math

import numpy as np
import pytest

from device_agent.training.optimizer import Optimizer, OptimizerSettings


def gradients(n, size=50, seed=0):
    return np.random.default_rng(seed).normal(size=(n, size)).astype(np.float32)


def reference(theta0, grads, s):
    """The rule of the settings, element by element, in float64."""
    theta, anchor = theta0.astype(float), theta0.astype(float)
    m = v = np.zeros_like(theta)
    for t, raw in enumerate(grads, start=1):
        g = raw.astype(float) + s.proximal_mu * (theta - anchor)
        length = math.sqrt((g * g).sum())
        if s.clip_norm and length > s.clip_norm:
            g = g / length * s.clip_norm
        theta = theta - theta * s.weight_decay * s.learning_rate
        if s.kind == "sgd":
            m = s.beta1 * m - s.learning_rate * g
            theta = theta + m
        else:
            m = s.beta1 * m + (1 - s.beta1) * g
            v = s.beta2 * v + (1 - s.beta2) * g * g
            rate = s.learning_rate * math.sqrt(1 - s.beta2**t) / (1 - s.beta1**t)
            theta = theta - rate * m / (np.sqrt(v) + s.epsilon)
    return theta


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"proximal_mu": 0.5},
        {"clip_norm": 1.0},
        {"weight_decay": 0.1},
        {"proximal_mu": 0.5, "clip_norm": 1.0, "weight_decay": 0.1},
    ],
    ids=["plain", "proximal", "clip", "decay", "all"],
)
def test_twenty_steps_follow_the_formula(kind, options):
    settings = OptimizerSettings(kind=kind, learning_rate=0.05, **options)
    theta0 = gradients(1, seed=9)[0]
    optimizer = Optimizer(theta0, settings)
    for grad in gradients(20):
        assert optimizer.step(grad)
    np.testing.assert_allclose(optimizer.theta, reference(theta0, gradients(20), settings), atol=5e-6)
    assert optimizer.steps == 20


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38], ids=["nan", "inf", "-inf", "huge"])
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_bad_gradient_leaves_everything_as_it_was(kind, bad):
    """Weights, moments and step count go on as if the gradient had never come."""
    with_bad, without = (Optimizer(gradients(1, seed=9)[0], OptimizerSettings(kind=kind)) for _ in range(2))
    for number, grad in enumerate(gradients(6)):
        if number == 3:
            spoiled = grad.copy()
            spoiled[7] = bad
            assert not with_bad.step(spoiled)
        with_bad.step(grad)
        without.step(grad)
    np.testing.assert_array_equal(with_bad.theta, without.theta)
    assert (with_bad.skipped, with_bad.steps) == (1, 6)


def test_the_largest_gradient_that_passes_does_no_harm():
    """Just below the guard the squares still fit float32."""
    optimizer = Optimizer(np.zeros(50, np.float32), OptimizerSettings(learning_rate=1e-3))
    assert optimizer.step(np.full(50, 1e17, np.float32))
    assert np.isfinite(optimizer.theta).all()


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize(("length", "taken"), [(1e17, True), (9.9e17, True), (1.01e18, False), (1e19, False)])
def test_the_bound_of_the_norm_is_exact(kind, length, taken):
    optimizer = Optimizer(np.zeros(64, np.float32), OptimizerSettings(kind=kind))
    assert optimizer.step(np.full(64, length / 8.0, np.float32)) is taken


def test_gradients_are_never_written():
    """They may be kept by whoever computed them."""
    for kind in ("adam", "sgd"):
        settings = OptimizerSettings(kind=kind, proximal_mu=0.5, clip_norm=0.1, weight_decay=0.1)
        for options in (settings, OptimizerSettings(kind=kind)):
            grad = gradients(1)[0]
            grad.flags.writeable = False
            assert Optimizer(np.ones(50, np.float32), options).step(grad)


def test_starting_point_is_copied():
    theta0 = np.ones(50, np.float32)
    Optimizer(theta0, OptimizerSettings()).step(gradients(1)[0])
    np.testing.assert_array_equal(theta0, 1.0)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "lion"},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"learning_rate": 1.5},
        {"beta1": 1.0},
        {"beta2": math.nan},
        {"proximal_mu": -1.0},
        {"clip_norm": math.inf},
        {"weight_decay": math.nan},
        {"epsilon": 0.0},
    ],
    ids=str,
)
def test_settings_that_would_ruin_weights_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options)) if "kind" not in options else "optimizer"):
        OptimizerSettings(**options)
