"""Rules by name, and rules that other packages bring."""

import numpy as np
import pytest

from gateway.aggregation import (
    ClippedMean,
    CoordinateMedian,
    FedAvg,
    FedYogi,
    MultiKrum,
    ServerState,
    TrimmedMean,
    named,
)
from gateway.aggregation.base import RuleOutcome, RuleState
from gateway.errors import ConfigError


class Takes:
    """A rule that breaks one promise."""

    def __init__(self, fault=None):
        self.fault = fault

    def next(self, state, updates, weights):
        if self.fault == "order":
            return RuleOutcome(state, next(iter(updates.values())), {})
        if self.fault == "scale":
            return RuleOutcome(state, 2.0 * sum(updates.values()), {})
        if self.fault == "nan":
            return FedAvg().next(state, {d: np.nan_to_num(u) for d, u in updates.items()}, weights)
        return FedAvg().next(state, updates, weights)


class Point:
    name, value = "mine", "my_package:Mine"

    def __init__(self, target):
        self.target = target

    def load(self):
        return self.target


@pytest.mark.parametrize(
    ("name", "kind"),
    [("clipped", ClippedMean), ("fedavg", FedAvg), ("trimmed", TrimmedMean), ("median", CoordinateMedian)],
)
def test_built_in_rules_have_names(name, kind):
    assert isinstance(named.rule_named(name), kind)


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        (lambda: Takes("order"), "the order of clients"),
        (lambda: Takes("scale"), "one client is not its own result"),
        (lambda: Takes("nan"), "not finite is taken"),
        (lambda: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_plug_in_that_breaks_a_promise_is_refused_at_the_start(monkeypatch, target, complaint):
    monkeypatch.setattr(named, "entry_points", lambda **_: [Point(target)])
    with pytest.raises(ConfigError, match=complaint):
        named.rule_named("plugin:mine")


def test_a_good_plug_in_is_taken(monkeypatch):
    monkeypatch.setattr(named, "entry_points", lambda **_: [Point(Takes)])
    assert isinstance(named.rule_named("plugin:mine"), Takes)


@pytest.mark.parametrize(("name", "complaint"), [("plugin:absent", "no installed package"), ("mean", "is unknown")])
def test_an_unknown_rule_is_named(name, complaint):
    with pytest.raises(ConfigError, match=complaint):
        named.rule_named(name)


@pytest.mark.parametrize("rule", [TrimmedMean(), CoordinateMedian(), MultiKrum(), ClippedMean()])
def test_two_of_ten_hostile_clients_do_not_turn_the_result(rule):
    """Five times the negative: the plain mean turns around, these rules do not."""
    rng = np.random.default_rng(3)
    honest = np.ones(50, dtype=np.float32)
    updates = {f"d{i}": (honest + 0.3 * rng.normal(size=50)).astype(np.float32) for i in range(10)}
    for device in ("d3", "d7"):
        updates[device] = -5.0 * updates[device]
    weights = dict.fromkeys(updates, 1.0)
    mean = FedAvg().next(RuleState(), updates, weights).delta
    assert mean.mean() < 0.0
    assert rule.next(RuleState(), updates, weights).delta.mean() > 0.6


def test_yogi_forgets_a_large_delta_slowly():
    """After one large delta its second moment shrinks by a constant step, not by a factor."""
    server = FedYogi(betas=(0.9, 0.99))
    state = server.next(ServerState.fresh(), np.full(4, 10.0, dtype=np.float32)).state
    after = server.next(state, np.full(4, 0.5, dtype=np.float32)).state
    assert after.second == pytest.approx(state.second - 0.01 * 0.25, rel=1e-6)
