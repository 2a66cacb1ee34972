"""FedYogi: the server optimiser whose second moment grows slowly."""

from dataclasses import dataclass

import numpy as np

from gateway.aggregation.base import Delta
from gateway.aggregation.server import ServerOutcome, ServerState


@dataclass(frozen=True, slots=True)
class FedYogi:
    """``m = b1 m + (1-b1) d``; ``v = v - (1-b2) d^2 sign(v - d^2)``; ``move = lr m / (sqrt(v) + tau)``.

    Attributes
    ----------
    learning_rate, betas, tau
        As for ``FedAdam``.

    References
    ----------
    Reddi et al., Adaptive Federated Optimization, 2021, algorithm 2.
    """

    learning_rate: float = 0.03
    betas: tuple[float, float] = (0.9, 0.99)
    tau: float = 1e-3

    def next(self, state: ServerState, delta: Delta) -> ServerOutcome:
        """Return the new moments and the move."""
        b1, b2 = self.betas
        d = delta.astype(np.float64)
        zero = np.zeros_like(d)
        before = state.second if len(state.second) else zero
        first = b1 * (state.first if len(state.first) else zero) + (1.0 - b1) * d
        second = before - (1.0 - b2) * d * d * np.sign(before - d * d)
        move = self.learning_rate * first / (np.sqrt(np.maximum(second, 0.0)) + self.tau)
        moments = first.astype(np.float32), second.astype(np.float32)
        return ServerOutcome(ServerState(state.step + 1, *moments), move.astype(np.float32))
