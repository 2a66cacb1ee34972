"""What happens when a round closes: updates become models. Computes on values, stores nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from contract.messages import Release
from contract.model import ModelSpec, weights_digest, weights_from_bytes
from gateway.aggregation import FedAdam, FedYogi, Momentum, Rule, ServerOptimiser, ServerState, Sum, row_weights
from gateway.aggregation.base import RuleState
from gateway.aggregation.named import rule_named
from gateway.aggregation.trunk import common_encoder, encoder_slice, with_encoder
from gateway.config import AggregationConfig
from gateway.releases import SignsBytes, make_release
from gateway.rounds import Aggregate, TargetResult, target_key


class StoredUpdate(Protocol):
    """An accepted update."""

    @property
    def device_id(self) -> str:
        """Who sent it."""
        ...

    @property
    def rows(self) -> int:
        """Training rows behind it."""
        ...

    @property
    def delta(self) -> bytes:
        """Little-endian float32, ``theta - base``."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class NewModel:
    """A model that a round made.

    Attributes
    ----------
    target
        ``fallback`` or a family id.
    release
        Signed.
    state
        Of the server optimiser, for the next round.
    norm
        Euclidean norm of the weights.
    """

    target: str
    release: Release
    state: ServerState
    norm: float


@dataclass(frozen=True, slots=True)
class Aggregator:
    """Rule, server optimiser and weighting of the configuration.

    Attributes
    ----------
    spec
        The model spec.
    config
        Which rule and optimiser.

    Raises
    ------
    ConfigError
        If the rule is a plug-in that is missing or fails its check.
    """

    spec: ModelSpec
    config: AggregationConfig
    rule: Rule = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", rule_named(self.config.rule))

    def encoder_delta(
        self, rounds: Sequence[tuple[Aggregate, Sequence[StoredUpdate]]]
    ) -> npt.NDArray[np.float32] | None:
        """Return how the encoder of all models moves; ``None`` if each has its own, or only one model was trained.

        Parameters
        ----------
        rounds
            Targets of a round with their updates. A device that trained an expert and the fallback counts with the
            expert.
        """
        if not self.config.common_encoder or len(rounds) < 2:
            return None
        used: dict[str, StoredUpdate] = {}
        for aggregate, updates in sorted(rounds, key=lambda pair: pair[0].target.role == "expert"):
            wanted = set(aggregate.devices)
            used |= {u.device_id: u for u in updates if u.device_id in wanted}
        n = self.spec.n_parameters
        deltas = {d: weights_from_bytes(u.delta, n_parameters=n) for d, u in used.items()}
        weights = row_weights({d: u.rows for d, u in used.items()}, weighting=self.config.weighting)
        return common_encoder(self.rule, deltas, weights, encoder_slice(self.spec.layout))

    def run(
        self,
        aggregate: Aggregate,
        updates: Sequence[StoredUpdate],
        base: npt.NDArray[np.float32],
        state: ServerState,
        *,
        number: int,
        signer: SignsBytes,
        encoder: npt.NDArray[np.float32] | None = None,
    ) -> tuple[TargetResult, NewModel | None]:
        """Make the new model of a target.

        Parameters
        ----------
        aggregate
            Which target, from which devices.
        updates
            The stored updates of the target; those of other devices are left out.
        base
            Weights they started from, shape ``(P,)``.
        state
            Of the target's server optimiser.
        number
            Round.
        signer
            Signs the release.
        encoder
            As ``encoder_delta``: takes the place of the encoder's part of the aggregated update.

        Returns
        -------
        TargetResult, NewModel or None
            No model if nothing changed or the result is not finite.
        """
        role, family_id = aggregate.target.role, aggregate.target.family_id
        target = target_key(role, family_id)
        wanted = set(aggregate.devices)
        used = {u.device_id: u for u in updates if u.device_id in wanted}
        n = self.spec.n_parameters
        deltas = {d: weights_from_bytes(u.delta, n_parameters=n) for d, u in used.items()}
        weights = row_weights({d: u.rows for d, u in used.items()}, weighting=self.config.weighting)
        _, delta, measurements = self.rule.next(RuleState(), deltas, weights)
        if encoder is not None:
            delta = with_encoder(delta, encoder_slice(self.spec.layout), encoder)
        state, move = self._server().next(state, delta)
        devices = tuple(sorted(used))
        moved = base.astype(np.float64) + move
        if not (np.abs(moved) <= np.finfo(np.float32).max).all():
            return TargetResult(target, None, devices, "not-finite", {}), None
        theta = moved.astype(np.float32)
        norm = float(np.linalg.norm(moved))
        measurements = {**measurements, "move_norm": float(np.linalg.norm(move.astype(np.float64))), "norm": norm}
        if weights_digest(theta) == aggregate.target.base:
            return TargetResult(target, None, devices, "unchanged", measurements), None
        release = make_release(
            theta,
            self.spec,
            signer,
            role=role,
            family_id=family_id,
            round_number=number,
            parent=aggregate.target.base,
        )
        result = TargetResult(target, release.manifest.weights_digest, devices, "aggregated", measurements)
        return result, NewModel(target, release, state, norm)

    def _server(self) -> ServerOptimiser:
        if self.config.server == "none":
            return Sum()
        if self.config.server == "momentum":
            return Momentum(self.config.betas[0])
        kind = FedYogi if self.config.server == "fedyogi" else FedAdam
        return kind(self.config.server_lr, self.config.betas, self.config.tau)
