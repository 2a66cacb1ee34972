"""The default rule: a cosine filter, then a mean of updates clipped to their median length."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gateway.aggregation.base import Delta, RuleOutcome, RuleState, stack

_MIN_CLIENTS_TO_FILTER = 5
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class ClippedMean:
    """``delta = sum_i w_i clip(delta_i, median length) / sum_i w_i`` over the updates the filter keeps.

    The filter takes the median cosine of each update to all others. It drops an update whose value lies ``spread``
    robust deviations (at least 0.1 each) below the median of these values, at most the worst ``max_dropped`` of all.

    Attributes
    ----------
    max_dropped
        Largest fraction of clients that is dropped; rounded down, so fewer than 5 clients are never filtered.
    spread
        Robust deviations that a client may differ.

    Notes
    -----
    Up to a fifth of hostile clients cost little; with more, or with colluding ones, only the clip protects. Honest
    outliers look like attackers to any such filter: the fallback relies on the small ``max_dropped``. Cost O(n^2 P).
    """

    max_dropped: float = 0.2
    spread: float = 3.0

    def next(self, state: RuleState, updates: Mapping[str, Delta], weights: Mapping[str, float]) -> RuleOutcome:
        """Aggregate; see ``Rule.next``."""
        rows, shares = stack(updates, weights)
        kept = self._kept(rows)
        rows, shares = rows[kept], shares[kept] / shares[kept].sum()
        lengths = np.linalg.norm(rows, axis=1)
        bound = float(np.median(lengths))
        factors = np.minimum(1.0, bound / np.maximum(lengths, _TINY))
        delta = (shares * factors) @ rows if len(rows) > 1 else rows[0]
        measurements = {
            "clients": float(len(kept)),
            "dropped": float(np.count_nonzero(~kept)),
            "clipped": float(np.count_nonzero(factors < 1.0)),
            "median_norm": bound,
        }
        return RuleOutcome(RuleState(state.calls + 1), delta.astype(np.float32), measurements)

    def _kept(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Return which updates pass the filter, shape ``(n,)``."""
        kept = np.ones(len(rows), dtype=np.bool_)
        quota = int(self.max_dropped * len(rows))
        if len(rows) < _MIN_CLIENTS_TO_FILTER or quota == 0:
            return kept
        unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, np.nan)
        agreement = np.nanmedian(cosines, axis=1)
        middle = np.median(agreement)
        deviation = max(1.4826 * float(np.median(np.abs(agreement - middle))), 0.1)
        worst = np.argsort(agreement, kind="stable")[:quota]
        kept[worst[agreement[worst] < middle - self.spread * deviation]] = False
        return kept
