"""Federated averaging: the weighted mean, a baseline without protection."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gateway.aggregation.base import Delta, RuleOutcome, RuleState, stack


@dataclass(frozen=True, slots=True)
class FedAvg:
    """``delta = sum_i w_i delta_i / sum_i w_i``.

    Notes
    -----
    One device that sends a large wrong update decides the result; use it for comparison, not in a deployment.

    References
    ----------
    McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017, algorithm 1.
    """

    def next(self, state: RuleState, updates: Mapping[str, Delta], weights: Mapping[str, float]) -> RuleOutcome:
        """Aggregate; see ``Rule.next``."""
        rows, shares = stack(updates, weights)
        delta = (shares @ rows).astype(np.float32) if len(rows) > 1 else rows[0].astype(np.float32)
        return RuleOutcome(RuleState(state.calls + 1), delta, {"clients": float(len(rows))})
