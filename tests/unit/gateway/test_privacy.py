"""Epsilon of the private mode, and what the mode changes."""

import math

import pytest

from gateway.errors import ConfigError
from gateway.privacy import gaussian_epsilon, private_norm, rule_for_mode, update_epsilon
from tests.unit.gateway.builders import config


def exact_epsilon(multiplier, times, delta):
    """Epsilon of composed Gaussians in closed form (Balle and Wang 2018), by bisection."""
    s = multiplier / math.sqrt(times)
    phi = lambda x: 0.5 * math.erfc(-x / math.sqrt(2.0))  # noqa: E731
    low, high = 0.0, 2_000.0
    for _ in range(200):
        middle = (low + high) / 2.0
        tail = phi(0.5 / s - middle * s) - math.exp(min(middle, 700.0)) * phi(-0.5 / s - middle * s)
        low, high = (low, middle) if tail <= delta else (middle, high)
    return high


def test_private_mode_takes_the_plain_mean_of_equal_weights():
    private = rule_for_mode(config(rounds={"mode": "private"}))
    assert (private.rule, private.weighting) == ("fedavg", "equal")
    assert rule_for_mode(config()) == config().aggregation


def test_the_bound_of_private_updates_covers_their_noise():
    rounds = config(rounds={"mode": "private", "clip_norm": 2.0, "noise_multiplier": 0.5}).rounds
    assert private_norm(rounds, 10_000) == pytest.approx(2.0 * (1 + 1.5 * 0.5 * 100))


def test_nothing_sent_costs_nothing():
    assert gaussian_epsilon(1.0, 0, 1e-5) == 0.0


def test_without_the_accountant_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    with pytest.raises(ConfigError, match=r"kinwatch\[privacy\]"):
        gaussian_epsilon(1.0, 1, 1e-5)


@pytest.mark.parametrize(("multiplier", "times"), [(2.0, 1), (1.0, 10), (4.0, 40), (0.5, 3)])
def test_epsilon_bounds_the_exact_one_from_above_and_closely(multiplier, times):
    pytest.importorskip("dp_accounting", reason="the extra 'privacy' is not installed")
    found, exact = gaussian_epsilon(multiplier, times, 1e-5), exact_epsilon(multiplier, times, 1e-5)
    assert exact <= found + 1e-9 <= 1.25 * exact + 0.3


def test_the_whole_of_a_devices_data_moves_an_update_by_twice_the_clip_norm():
    pytest.importorskip("dp_accounting", reason="the extra 'privacy' is not installed")
    assert update_epsilon(4.0, 5, 1e-5) == gaussian_epsilon(2.0, 5, 1e-5)
