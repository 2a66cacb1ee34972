"""Aggregation by numbers: means, clips, filters, weights, server steps."""

import numpy as np
import pytest

from gateway.aggregation import ClippedMean, FedAdam, FedAvg, Momentum, ServerState, Sum, row_weights
from gateway.aggregation.base import RuleState


def vectors(**rows):
    return {name: np.array(row, dtype=np.float32) for name, row in rows.items()}


def test_fedavg_is_the_weighted_mean():
    outcome = FedAvg().next(RuleState(), vectors(a=[1.0, 0.0], b=[4.0, 3.0]), {"a": 2.0, "b": 1.0})
    assert outcome.delta == pytest.approx([2.0, 1.0])
    assert outcome.measurements == {"clients": 2.0}


def test_clipping_shortens_long_updates_to_the_median_length():
    """Lengths 1, 2, 10 have the median 2: the third counts as 2."""
    updates = vectors(a=[1.0, 0.0], b=[2.0, 0.0], c=[10.0, 0.0])
    outcome = ClippedMean().next(RuleState(), updates, dict.fromkeys(updates, 1.0))
    assert outcome.delta == pytest.approx([5.0 / 3.0, 0.0])
    assert outcome.measurements == {"clients": 3.0, "dropped": 0.0, "clipped": 1.0, "median_norm": 2.0}


def honest(n, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    common = rng.normal(0.0, 1.0, 500)
    return {f"d{i}": (common + spread * rng.normal(0.0, 1.0, 500)).astype(np.float32) for i in range(n)}, common


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("factor", [-5.0, -1.0])
def test_the_filter_drops_updates_that_point_the_other_way(seed, factor):
    """Two of ten send their update multiplied by a negative number; the mean of all would point nowhere."""
    updates, common = honest(10, seed)
    for device in ("d3", "d7"):
        updates[device] = factor * updates[device]
    outcome = ClippedMean().next(RuleState(), updates, dict.fromkeys(updates, 1.0))
    assert outcome.measurements["dropped"] == 2.0
    cosine = outcome.delta @ common / np.linalg.norm(outcome.delta) / np.linalg.norm(common)
    assert cosine > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_the_filter_drops_noise(seed):
    updates, _ = honest(10, seed)
    updates["d4"] = np.random.default_rng(seed + 100).normal(0.0, 2.0, 500).astype(np.float32)
    outcome = ClippedMean().next(RuleState(), updates, dict.fromkeys(updates, 1.0))
    assert outcome.measurements["dropped"] == 1.0


@pytest.mark.parametrize("n", [3, 4, 8, 20])
@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_the_filter_keeps_honest_devices(n, spread):
    """However different they are, as long as they differ alike."""
    dropped = 0.0
    for seed in range(10):
        updates, _ = honest(n, seed, spread)
        dropped += ClippedMean().next(RuleState(), updates, dict.fromkeys(updates, 1.0)).measurements["dropped"]
    assert dropped == 0.0


def test_the_filter_never_drops_more_than_its_share():
    """Half of the devices against the other half: at most a fifth may go."""
    updates, _ = honest(10, 0)
    for device in ("d0", "d1", "d2", "d3", "d4"):
        updates[device] = -updates[device]
    assert ClippedMean().next(RuleState(), updates, dict.fromkeys(updates, 1.0)).measurements["dropped"] <= 2.0


def test_all_updates_zero_is_zero():
    updates = {f"d{i}": np.zeros(4, dtype=np.float32) for i in range(6)}
    assert not ClippedMean().next(RuleState(), updates, dict.fromkeys(updates, 1.0)).delta.any()


def test_weights_grow_with_the_root_of_the_rows_and_are_capped():
    """A device that claims a million rows counts three times the median."""
    assert row_weights({"a": 100, "b": 400, "c": 100, "d": 1_000_000}, weighting="sqrt-rows") == {
        "a": 10.0,
        "b": 20.0,
        "c": 10.0,
        "d": 45.0,
    }


def test_equal_weights():
    assert row_weights({"a": 1, "b": 900}, weighting="equal") == {"a": 1.0, "b": 1.0}


def test_sum_moves_by_the_delta():
    delta = np.array([1.0, -2.0], dtype=np.float32)
    outcome = Sum().next(ServerState.fresh(), delta)
    assert outcome.move.tolist() == [1.0, -2.0]
    assert outcome.state.step == 1


def test_momentum_goes_on_in_the_direction_of_the_last_rounds():
    delta = np.array([1.0, -2.0], dtype=np.float32)
    state, first = Momentum(0.5).next(ServerState.fresh(), delta)
    state, second = Momentum(0.5).next(ServerState.from_bytes(state.to_bytes()), delta)
    np.testing.assert_array_equal(first, delta)
    np.testing.assert_array_equal(second, 1.5 * delta)
    assert state.step == 2


def test_fedadam_by_hand():
    """Two steps of the published recursion, computed by hand for d = 0.1."""
    server = FedAdam(0.03, (0.9, 0.99), 1e-3)
    delta = np.array([0.1], dtype=np.float32)
    first = server.next(ServerState.fresh(), delta)
    assert first.move[0] == pytest.approx(0.03 * 0.01 / (0.01 + 0.001), rel=1e-5)
    second = server.next(first.state, delta)
    m, v = 0.9 * 0.01 + 0.1 * 0.1, 0.99 * 0.0001 + 0.01 * 0.01
    assert second.move[0] == pytest.approx(0.03 * m / (v**0.5 + 0.001), rel=1e-5)
