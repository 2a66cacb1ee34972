"""What an aggregation rule is: updates by device and weights in; state, one delta and measurements out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Delta = npt.NDArray[np.float32]
"""Flat vector of shape ``(P,)``, ``theta - base``."""

Measurements = dict[str, float]
"""What a rule saw, by name; for people and logs."""


@dataclass(frozen=True, slots=True)
class RuleState:
    """State of a rule between rounds; its size depends on neither clients nor rounds.

    Attributes
    ----------
    calls
        Aggregations so far.
    """

    calls: int = 0


class RuleOutcome(NamedTuple):
    """New state, aggregated delta of shape ``(P,)``, measurements."""

    state: RuleState
    delta: Delta
    measurements: Measurements


class Rule(Protocol):
    """An aggregation rule.

    The order of the mapping is irrelevant; one client alone is its own result; a value that is not finite is refused.
    """

    def next(self, state: RuleState, updates: Mapping[str, Delta], weights: Mapping[str, float]) -> RuleOutcome:
        """Aggregate.

        Parameters
        ----------
        state
            What the last call returned, or a fresh one.
        updates
            Delta of shape ``(P,)`` by device; at least one.
        weights
            Positive weight by device, same keys; the scale is irrelevant.

        Raises
        ------
        ValueError
            If there is no update, keys or lengths differ, a weight is not positive, or a value is not finite.
        """
        ...


def stack(
    updates: Mapping[str, Delta], weights: Mapping[str, float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Check the input of a rule and bring it into one order.

    Returns
    -------
    rows
        Shape ``(n, P)``, float64, sorted by device, so that sums do not depend on the order of arrival.
    shares
        Shape ``(n,)``, weights that sum to 1.

    Raises
    ------
    ValueError
        As ``Rule.next``.
    """
    if not updates:
        raise ValueError("there is no update to aggregate")
    if updates.keys() != weights.keys():
        raise ValueError("updates and weights name different devices")
    order = sorted(updates)
    if len({updates[device].shape for device in order}) != 1:
        raise ValueError("updates have different lengths")
    rows = np.stack([updates[device] for device in order]).astype(np.float64)
    raw = np.array([weights[device] for device in order], dtype=np.float64)
    if not np.isfinite(rows).all():
        raise ValueError("an update holds values that are not finite")
    if not (np.isfinite(raw) & (raw > 0.0)).all():
        raise ValueError("weights must be positive and finite")
    return rows, raw / raw.sum()
