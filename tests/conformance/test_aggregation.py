"""What every aggregation rule and every server optimiser must do."""

import numpy as np
import pytest

from gateway.aggregation import (
    ClippedMean,
    CoordinateMedian,
    FedAdam,
    FedAvg,
    FedYogi,
    MultiKrum,
    ServerState,
    Sum,
    TrimmedMean,
)
from gateway.aggregation.base import RuleState

RULES = [FedAvg(), ClippedMean(), TrimmedMean(), CoordinateMedian(), MultiKrum()]
SERVERS = [Sum(), FedAdam(), FedYogi()]
P = 200

rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
servers = pytest.mark.parametrize("server", SERVERS, ids=lambda server: type(server).__name__)


def clients(n, *, seed=0, spread=0.5):
    """Updates that agree in direction, as those of honest devices do, with unequal weights."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0.0, 1.0, P)
    updates = {f"d{i}": (common + spread * rng.normal(0.0, 1.0, P)).astype(np.float32) for i in range(n)}
    return updates, {device: float(rng.uniform(1.0, 3.0)) for device in updates}


def aggregate(rule, updates, weights):
    return rule.next(RuleState(), updates, weights)


@rules
@pytest.mark.parametrize("n", [2, 5, 11])
def test_the_order_of_clients_is_irrelevant(rule, n):
    """To the last bit, not just about."""
    updates, weights = clients(n)
    forward = aggregate(rule, updates, weights)
    backward = aggregate(rule, dict(reversed(updates.items())), dict(reversed(weights.items())))
    assert forward.delta.tobytes() == backward.delta.tobytes()
    assert forward.measurements == backward.measurements


@rules
def test_one_client_is_its_own_result(rule):
    updates, weights = clients(1)
    assert aggregate(rule, updates, weights).delta.tobytes() == updates["d0"].tobytes()


@rules
def test_equal_clients_give_themselves(rule):
    """Seven copies of one update, whatever their weights, are that update."""
    updates, weights = clients(7)
    same = dict.fromkeys(updates, updates["d0"])
    assert aggregate(rule, same, weights).delta == pytest.approx(updates["d0"], rel=1e-6)


@rules
def test_the_scale_of_weights_is_irrelevant(rule):
    updates, weights = clients(6)
    scaled = {device: 1000.0 * weight for device, weight in weights.items()}
    assert aggregate(rule, updates, scaled).delta == pytest.approx(aggregate(rule, updates, weights).delta, rel=1e-5)


@rules
def test_a_heavier_client_pulls_harder(rule):
    updates, weights = clients(4)
    light = aggregate(rule, updates, weights).delta
    heavy = aggregate(rule, updates, {**weights, "d0": 100.0}).delta
    assert np.linalg.norm(heavy - updates["d0"]) < np.linalg.norm(light - updates["d0"])


@rules
def test_no_coordinate_leaves_the_range_of_the_clients_and_zero(rule):
    """A mean of shortened updates lies between their extremes and zero."""
    updates, weights = clients(8)
    rows = np.stack(list(updates.values()))
    delta = aggregate(rule, updates, weights).delta
    assert (delta <= np.maximum(rows.max(axis=0), 0.0) + 1e-6).all()
    assert (delta >= np.minimum(rows.min(axis=0), 0.0) - 1e-6).all()


@rules
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(rule, bad):
    updates, weights = clients(3)
    updates["d1"] = updates["d1"].copy()
    updates["d1"][7] = bad
    with pytest.raises(ValueError, match="not finite"):
        aggregate(rule, updates, weights)


@rules
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u, w: ({}, {}), "no update"),
        (lambda u, w: (u, {**w, "stranger": 1.0}), "different devices"),
        (lambda u, w: ({**u, "d0": u["d0"][:-1]}, w), "different lengths"),
        (lambda u, w: (u, {**w, "d0": 0.0}), "positive"),
        (lambda u, w: (u, {**w, "d0": float("nan")}), "positive and finite"),
    ],
)
def test_input_that_makes_no_sense_is_refused(rule, change, message):
    with pytest.raises(ValueError, match=message):
        aggregate(rule, *change(*clients(3)))


@rules
def test_the_same_input_gives_the_same_output_and_is_left_alone(rule):
    updates, weights = clients(9)
    before = {device: update.copy() for device, update in updates.items()}
    first, second = (aggregate(rule, updates, weights) for _ in range(2))
    assert first.delta.tobytes() == second.delta.tobytes()
    assert all(np.array_equal(updates[device], before[device]) for device in updates)


@rules
def test_its_state_does_not_grow(rule):
    """Neither with clients nor with rounds: it is one number."""
    state = RuleState()
    for n in (2, 30, 5):
        state = rule.next(state, *clients(n)).state
    assert state == RuleState(calls=3)


@servers
def test_a_server_optimiser_is_deterministic_and_leaves_its_input_alone(server):
    delta = clients(1)[0]["d0"]
    before = delta.copy()
    first, second = (server.next(ServerState.fresh(), delta) for _ in range(2))
    assert first.move.tobytes() == second.move.tobytes()
    assert np.array_equal(delta, before)


@servers
def test_a_move_follows_the_sign_of_a_first_delta(server):
    delta = clients(1)[0]["d0"]
    move = server.next(ServerState.fresh(), delta).move
    assert move.dtype == np.float32
    assert (np.sign(move) == np.sign(delta)).all()


@servers
def test_no_delta_is_no_first_move(server):
    assert not server.next(ServerState.fresh(), np.zeros(P, dtype=np.float32)).move.any()


@servers
def test_a_state_survives_its_bytes(server):
    """A restarted gateway goes on to the last bit."""
    delta = clients(1)[0]["d0"]
    state = server.next(ServerState.fresh(), delta).state
    again = ServerState.from_bytes(state.to_bytes())
    assert again.step == state.step == 1
    assert server.next(again, delta).move.tobytes() == server.next(state, delta).move.tobytes()
