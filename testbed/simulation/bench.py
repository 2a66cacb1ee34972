"""What every method is given and must keep to: the fleet, the budget, the hostile devices; and what it hands back."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gateway.aggregation import FedAvg, Rule, ServerOptimiser, ServerState, Sum
from gateway.aggregation.base import RuleState
from gateway.aggregation.weights import row_weights
from testbed.simulation.fleet import Fleet
from testbed.simulation.generator import Poison
from testbed.simulation.local import LocalSettings, Trainer
from testbed.simulation.net import BatchedNet, Floats

Indices = npt.NDArray[np.int64]

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Budget:
    """What a device may spend, in rounds of plain federated averaging.

    Attributes
    ----------
    rounds
        Rounds; bytes allowed are ``rounds`` downloads and uploads of one model.
    steps
        Local steps of a round; steps allowed are ``rounds * steps``.
    """

    rounds: int = 30
    steps: int = 16


@dataclass(slots=True)
class Ledger:
    """What the devices spent, as means over the fleet.

    Attributes
    ----------
    steps, up_bytes, down_bytes
        Per device.
    device_s, gateway_s
        CPU seconds: of one device's share of the batched training, and of everything the gateway computes.
    """

    steps: float = 0.0
    up_bytes: float = 0.0
    down_bytes: float = 0.0
    device_s: float = 0.0
    gateway_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a method ends with.

    Attributes
    ----------
    theta
        Shape ``(n, P)``: the weights each device detects with.
    ledger
        What it spent.
    labels
        Shape ``(n,)``: families found, -1 = in none; ``None`` for methods without any.
    rungs
        How many devices use each rung of the ladder.
    stability
        Agreement of the families with those of subsamples; ``None`` without.
    """

    theta: Floats
    ledger: Ledger
    labels: npt.NDArray[np.int64] | None = None
    rungs: Mapping[str, int] = field(default_factory=dict)
    stability: float | None = None


class Bench:
    """One fleet, one seed, one budget.

    Parameters
    ----------
    fleet
        The devices.
    budget
        What they may spend.
    seed
        Of initial weights, batches and hostile noise.
    poison
        What hostile devices do to their updates.
    churn
        Share of devices that miss a round.
    later
        The same devices after a drift in the middle of the run.
    """

    def __init__(
        self,
        fleet: Fleet,
        budget: Budget,
        seed: int,
        *,
        poison: Poison = "none",
        churn: float = 0.0,
        later: Fleet | None = None,
    ) -> None:
        self.fleet = fleet
        self.budget = budget
        self.net = BatchedNet(fleet.layout)
        self.trainer = Trainer(self.net, fleet.train, fleet.hostile)
        self.rng = np.random.default_rng([seed, 23])
        self.ledger = Ledger()
        self.everyone: Indices = np.arange(fleet.n)
        self.initial = self.net.initial(seed)
        self.poison = poison
        self._churn = churn
        self._later = later
        self._rows = {name: int(rows) for name, rows in zip(fleet.names, fleet.train.rows, strict=True)}

    @property
    def model_bytes(self) -> int:
        """Bytes of one model on the wire."""
        return _FLOAT_BYTES * self.net.n_parameters

    def drift(self) -> bool:
        """Go over to the fleet after the drift; return whether there is one."""
        if self._later is None:
            return False
        self.fleet, self._later = self._later, None
        self.trainer = Trainer(self.net, self.fleet.train, self.fleet.hostile)
        return True

    def present(self, devices: Indices) -> Indices:
        """Return those of the devices that take part in this round."""
        if not self._churn:
            return devices
        here = devices[self.rng.random(len(devices)) >= self._churn]
        return here if len(here) else devices[:1]

    def stacked(self, theta: Floats, n: int) -> Floats:
        """Return one model ``n`` times."""
        return np.repeat(theta[None], n, axis=0)

    def train(
        self,
        theta: Floats,
        devices: Indices,
        steps: int,
        settings: LocalSettings,
        *,
        anchor: Floats | None = None,
        correction: Floats | None = None,
        trainable: npt.NDArray[np.bool_] | None = None,
    ) -> Floats:
        """Train devices from stacked weights and charge the steps."""
        if not len(devices) or steps <= 0:
            return theta
        started = time.process_time()
        result = self.trainer.run(
            theta, devices, steps, settings, self.rng, anchor=anchor, correction=correction, trainable=trainable
        )
        self.ledger.device_s += (time.process_time() - started) / self.fleet.n
        self.ledger.steps += steps * len(devices) / self.fleet.n
        return result

    def round(
        self,
        theta: Floats,
        devices: Indices,
        steps: int,
        settings: LocalSettings,
        *,
        rule: Rule | None = None,
        server: ServerOptimiser | None = None,
        state: ServerState | None = None,
        trainable: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[Floats, ServerState]:
        """Do one federated round of one model and charge it; return the new model and the server's state."""
        here = self.present(devices)
        trained = self.train(self.stacked(theta, len(here)), here, steps, settings, trainable=trainable)
        deltas = self.tampered(trained - theta, here)
        self.exchange(len(here))
        return self.aggregate(theta, deltas, here, rule=rule, server=server, state=state)

    def aggregate(
        self,
        theta: Floats,
        deltas: Floats,
        devices: Indices,
        *,
        rule: Rule | None = None,
        server: ServerOptimiser | None = None,
        state: ServerState | None = None,
    ) -> tuple[Floats, ServerState]:
        """Aggregate with the gateway's own rules and server optimisers."""
        with self.gateway_work():
            names = [self.fleet.names[i] for i in devices]
            updates = {name: deltas[k] for k, name in enumerate(names)}
            delta = (rule or FedAvg()).next(RuleState(), updates, self.weights(updates)).delta
            outcome = (server or Sum()).next(state or ServerState.fresh(), delta)
        return theta + outcome.move, outcome.state

    def weights(self, names: Iterable[str]) -> dict[str, float]:
        """Return the gateway's weight of each device."""
        return row_weights({name: self._rows[name] for name in names}, weighting="sqrt-rows")

    def tampered(self, deltas: Floats, devices: Indices) -> Floats:
        """Return the updates as they arrive: those of hostile devices are what the attack makes of them."""
        hostile = self.fleet.hostile[devices]
        if self.poison in {"none", "idle", "label-flip"} or not hostile.any():
            return deltas
        result = deltas.copy()
        if self.poison == "noise":
            lengths = np.linalg.norm(deltas[hostile], axis=1, keepdims=True)
            noise = self.rng.normal(size=deltas[hostile].shape).astype(np.float32)
            result[hostile] = 5.0 * lengths * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        else:
            result[hostile] = -5.0 * deltas[hostile]
        return result

    def exchange(self, devices: int, *, up: float = 1.0, down: float = 1.0) -> None:
        """Charge uploads and downloads of ``devices`` devices, in models."""
        share = devices / self.fleet.n
        self.ledger.up_bytes += share * up * self.model_bytes
        self.ledger.down_bytes += share * down * self.model_bytes

    @contextmanager
    def gateway_work(self) -> Iterator[None]:
        """Charge the CPU time of the block to the gateway."""
        started = time.process_time()
        yield
        self.ledger.gateway_s += time.process_time() - started
