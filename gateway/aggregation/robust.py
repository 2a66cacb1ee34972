"""Robust rules from the literature, coordinate by coordinate or client by client."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gateway.aggregation.base import Delta, RuleOutcome, RuleState, stack

_HALF = 0.5
_TIE = 1e-12


@dataclass(frozen=True, slots=True)
class TrimmedMean:
    """Weighted mean of each coordinate after its ``trim`` largest and smallest values are left out.

    Attributes
    ----------
    trim
        Share of the clients left out at each end, rounded down; below 0.5.

    References
    ----------
    Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, 2018, definition 2.
    """

    trim: float = 0.2

    def next(self, state: RuleState, updates: Mapping[str, Delta], weights: Mapping[str, float]) -> RuleOutcome:
        """Aggregate; see ``Rule.next``."""
        rows, shares = stack(updates, weights)
        cut = int(self.trim * len(rows))
        if cut == 0:
            delta = shares @ rows if len(rows) > 1 else rows[0]
        else:
            order = np.argsort(rows, axis=0, kind="stable")[cut : len(rows) - cut]
            kept = np.take_along_axis(rows, order, axis=0)
            share = shares[order]
            delta = (kept * share).sum(axis=0) / share.sum(axis=0)
        measurements = {"clients": float(len(rows)), "trimmed": float(2 * cut)}
        return RuleOutcome(RuleState(state.calls + 1), delta.astype(np.float32), measurements)


@dataclass(frozen=True, slots=True)
class CoordinateMedian:
    """Weighted median of each coordinate; the middle of both where the weights split evenly.

    References
    ----------
    Yin et al., 2018, definition 1.
    """

    def next(self, state: RuleState, updates: Mapping[str, Delta], weights: Mapping[str, float]) -> RuleOutcome:
        """Aggregate; see ``Rule.next``."""
        rows, shares = stack(updates, weights)
        order = np.argsort(rows, axis=0, kind="stable")
        values = np.take_along_axis(rows, order, axis=0)
        reached = np.cumsum(shares[order], axis=0)
        columns = np.arange(rows.shape[1])
        lower = values[np.argmax(reached >= _HALF - _TIE, axis=0), columns]
        upper = values[np.argmax(reached > _HALF + _TIE, axis=0), columns]
        delta = (lower + upper) / 2.0
        return RuleOutcome(RuleState(state.calls + 1), delta.astype(np.float32), {"clients": float(len(rows))})


@dataclass(frozen=True, slots=True)
class MultiKrum:
    """Weighted mean of the clients whose nearest neighbours are nearest.

    A client's score is the sum of squared distances to its ``n - f - 2`` nearest others (at least one), with
    ``f = floor(hostile n)``; the ``n - f`` lowest scores count.

    Attributes
    ----------
    hostile
        Share of clients that may be hostile; below 0.5.

    References
    ----------
    Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, 2017, section 5.
    """

    hostile: float = 0.2

    def next(self, state: RuleState, updates: Mapping[str, Delta], weights: Mapping[str, float]) -> RuleOutcome:
        """Aggregate; see ``Rule.next``."""
        rows, shares = stack(updates, weights)
        n = len(rows)
        f = int(self.hostile * n)
        kept = np.arange(n)
        if f:
            nearest = np.sort(_squared_distances(rows), axis=1)[:, 1 : 1 + max(1, n - f - 2)]
            kept = np.sort(np.argsort(nearest.sum(axis=1), kind="stable")[: n - f])
        share = shares[kept] / shares[kept].sum()
        delta = share @ rows[kept] if n > 1 else rows[0]
        measurements = {"clients": float(n), "dropped": float(n - len(kept))}
        return RuleOutcome(RuleState(state.calls + 1), delta.astype(np.float32), measurements)


def _squared_distances(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    squares = (rows * rows).sum(axis=1)
    distances: npt.NDArray[np.float64] = np.maximum(squares[:, None] + squares[None, :] - 2.0 * rows @ rows.T, 0.0)
    np.fill_diagonal(distances, -1.0)  # itself sorts first, also beside an identical client
    return distances
