"""Rules and server optimisers by name; a user's own rule comes in by an entry point.

A package that brings a rule declares, in its ``pyproject.toml``::

    [project.entry-points."kinwatch.aggregation_rules"]
    my-rule = "my_package:MyRule"

The target is called without arguments and returns a ``Rule``. The configuration names it ``plugin:my-rule``.
"""

from importlib.metadata import entry_points

import numpy as np

from gateway.aggregation.base import Rule, RuleState
from gateway.aggregation.clipped import ClippedMean
from gateway.aggregation.fedavg import FedAvg
from gateway.aggregation.robust import CoordinateMedian, MultiKrum, TrimmedMean
from gateway.errors import ConfigError

ENTRY_POINTS = "kinwatch.aggregation_rules"
_BUILT_IN: dict[str, Rule] = {
    "clipped": ClippedMean(),
    "fedavg": FedAvg(),
    "trimmed": TrimmedMean(),
    "median": CoordinateMedian(),
    "multi-krum": MultiKrum(),
}
_PREFIX = "plugin:"


def rule_named(name: str) -> Rule:
    """Return an aggregation rule.

    Parameters
    ----------
    name
        ``clipped``, ``fedavg``, ``trimmed``, ``median``, ``multi-krum``, or ``plugin:<entry point>``.

    Raises
    ------
    ConfigError
        If there is no such rule, or a plug-in cannot be loaded or fails a first check.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if not name.startswith(_PREFIX):
        known = ", ".join([*_BUILT_IN, f"{_PREFIX}<name>"])
        raise ConfigError(f"aggregation.rule {name!r} is unknown; there are {known}")
    wanted = name.removeprefix(_PREFIX)
    found = [point for point in entry_points(group=ENTRY_POINTS) if point.name == wanted]
    if not found:
        raise ConfigError(
            f"aggregation.rule {name!r}: no installed package has an entry point {wanted} in {ENTRY_POINTS}"
        )
    try:
        rule: Rule = found[0].load()()
        fault = rule_fault(rule)
    except Exception as error:
        raise ConfigError(f"aggregation.rule {name!r} ({found[0].value}): {type(error).__name__}: {error}") from error
    if fault is not None:
        raise ConfigError(f"aggregation.rule {name!r} ({found[0].value}): {fault}")
    return rule


def rule_fault(rule: Rule) -> str | None:
    """Return what a rule does wrong on a small example, ``None`` if nothing.

    One client must be its own result, the order of clients irrelevant, and a value that is not finite refused.
    """
    rng = np.random.default_rng(0)
    updates = {f"d{i}": rng.normal(0.0, 1.0, 8).astype(np.float32) for i in range(5)}
    weights = {device: float(i + 1) for i, device in enumerate(updates)}
    alone = rule.next(RuleState(), {"d0": updates["d0"]}, {"d0": 1.0}).delta
    if alone.shape != (8,) or not np.allclose(alone, updates["d0"], atol=1e-6):
        return "one client is not its own result"
    forward = rule.next(RuleState(), updates, weights).delta
    backward = rule.next(RuleState(), dict(reversed(updates.items())), dict(reversed(weights.items()))).delta
    if not np.array_equal(forward, backward):
        return "the order of clients changes the result"
    updates["d1"] = np.full(8, np.nan, dtype=np.float32)
    try:
        rule.next(RuleState(), updates, weights)
    except ValueError:
        return None
    return "an update that is not finite is taken"
