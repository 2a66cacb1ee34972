"""The traffic signature."""

import numpy as np
import pytest

from device_agent.signature import MIN_FLOWS, traffic_moments


def rows(n=1000, d=5, seed=0):
    return np.random.default_rng(seed).normal(1.5, 0.2, (n, d)).astype(np.float32)


def test_it_is_the_trimmed_mean_and_the_log_of_the_deviation():
    x = rows()
    found = traffic_moments(x)
    trimmed = [np.sort(column.astype(float))[50:-50].mean() for column in x.T]
    np.testing.assert_allclose(found.mean, trimmed, atol=1e-3)
    np.testing.assert_allclose(found.log_std, np.log(x.std(axis=0) + 1e-3), atol=2e-3)
    assert (found.mean.dtype, found.log_std.dtype, found.flows) == (np.dtype("<f2"), np.dtype("<f2"), 1000)


def test_a_few_wild_flows_hardly_move_the_mean():
    x = rows()
    wild = x.copy()
    wild[:40] = 3.0
    assert np.abs(traffic_moments(wild).mean - traffic_moments(x).mean).max() < 0.02
    assert np.abs(wild.mean(axis=0) - x.mean(axis=0)).max() > 0.05


def test_the_order_of_flows_does_not_matter():
    x = rows()
    shuffled = x[np.random.default_rng(1).permutation(len(x))]
    for name in ("mean", "log_std"):
        np.testing.assert_array_equal(getattr(traffic_moments(x), name), getattr(traffic_moments(shuffled), name))


def test_constant_features_have_a_finite_signature():
    found = traffic_moments(np.zeros((300, 4), np.float32))
    np.testing.assert_allclose(found.log_std, np.log(1e-3), atol=5e-3)


def test_too_few_flows_have_none():
    assert traffic_moments(rows(MIN_FLOWS - 1)) is None
    assert traffic_moments(rows(MIN_FLOWS)) is not None
    assert traffic_moments(rows(0), min_flows=0) is None


def test_one_flow_cannot_be_read_off():
    """Exchanging one flow of a thousand for another moves no mean by more than its share."""
    x = rows()
    other = x.copy()
    other[0] = 0.0
    assert np.abs(traffic_moments(other).mean - traffic_moments(x).mean).max() == pytest.approx(0.0, abs=4e-3)
