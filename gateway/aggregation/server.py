"""Server optimisers: how an aggregated delta moves a model."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gateway.aggregation.base import Delta


@dataclass(frozen=True, slots=True, eq=False)
class ServerState:
    """Moments of a server optimiser for one model.

    Attributes
    ----------
    step
        Steps so far.
    first, second
        Moments of shape ``(P,)``, float32; empty for an optimiser without moments.
    """

    step: int
    first: npt.NDArray[np.float32]
    second: npt.NDArray[np.float32]

    @classmethod
    def fresh(cls) -> "ServerState":
        """Return the state of a model that was never moved."""
        empty = np.zeros(0, dtype=np.float32)
        return cls(0, empty, empty)

    def to_bytes(self) -> bytes:
        """Encode: step as 8 bytes, then both moments, all little-endian."""
        return b"".join(
            (self.step.to_bytes(8, "little"), *(m.astype("<f4").tobytes() for m in (self.first, self.second)))
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "ServerState":
        """Decode what ``to_bytes`` made."""
        moments = np.frombuffer(data, dtype="<f4", offset=8).astype(np.float32)
        half = len(moments) // 2
        return cls(int.from_bytes(data[:8], "little"), moments[:half], moments[half:])


class ServerOutcome(NamedTuple):
    """New state, and what to add to the model, shape ``(P,)``."""

    state: ServerState
    move: Delta


class ServerOptimiser(Protocol):
    """Turns an aggregated delta into the move of the model."""

    def next(self, state: ServerState, delta: Delta) -> ServerOutcome:
        """Return the new state and the move."""
        ...


@dataclass(frozen=True, slots=True)
class Sum:
    """The delta itself is the move."""

    def next(self, state: ServerState, delta: Delta) -> ServerOutcome:
        """Return the delta unchanged."""
        return ServerOutcome(ServerState(state.step + 1, state.first, state.second), delta)


@dataclass(frozen=True, slots=True)
class Momentum:
    """``v = beta v + d``; ``move = v``: goes on in the direction of the last rounds.

    Attributes
    ----------
    beta
        Share of the last move that goes on; in a steady direction moves grow to ``1 / (1 - beta)`` times the delta.

    References
    ----------
    Hsu et al., Measuring the Effects of Non-Identical Data Distribution, 2019 (FedAvgM).
    """

    beta: float = 0.8

    def next(self, state: ServerState, delta: Delta) -> ServerOutcome:
        """Return the new velocity and the move."""
        before = state.first if len(state.first) else np.zeros_like(delta)
        move = (self.beta * before.astype(np.float64) + delta).astype(np.float32)
        return ServerOutcome(ServerState(state.step + 1, move, np.zeros_like(move)), move)


@dataclass(frozen=True, slots=True)
class FedAdam:
    """``m = b1 m + (1-b1) d``; ``v = b2 v + (1-b2) d^2``; ``move = lr m / (sqrt(v) + tau)``.

    Attributes
    ----------
    learning_rate
        Longest move of a coordinate in the first steps, about.
    betas
        ``b1``, ``b2``.
    tau
        Coordinates with deltas well below it hardly move.

    References
    ----------
    Reddi et al., Adaptive Federated Optimization, 2021, algorithm 2 (no bias correction).
    """

    learning_rate: float = 0.03
    betas: tuple[float, float] = (0.9, 0.99)
    tau: float = 1e-3

    def next(self, state: ServerState, delta: Delta) -> ServerOutcome:
        """Return the new moments and the move."""
        b1, b2 = self.betas
        d = delta.astype(np.float64)
        zero = np.zeros_like(d)
        first = b1 * (state.first if len(state.first) else zero) + (1.0 - b1) * d
        second = b2 * (state.second if len(state.second) else zero) + (1.0 - b2) * d * d
        move = self.learning_rate * first / (np.sqrt(second) + self.tau)
        moments = first.astype(np.float32), second.astype(np.float32)
        return ServerOutcome(ServerState(state.step + 1, *moments), move.astype(np.float32))
