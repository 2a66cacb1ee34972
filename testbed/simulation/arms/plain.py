"""One model for all, no model for all, and personal models: the baselines without clusters."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gateway.aggregation import FedAdam, FedYogi, Momentum, ServerOptimiser, ServerState
from testbed.simulation.bench import Bench, Outcome
from testbed.simulation.fleet import PADDING, Share
from testbed.simulation.local import LocalSettings, Trainer
from testbed.simulation.net import Floats

_DIVERGED = 1e4

Settings = Mapping[str, Any]


def local_only(bench: Bench, s: Settings) -> Outcome:
    """Each device alone."""
    rounds, steps = bench.budget.rounds, bench.budget.steps
    settings = LocalSettings(s["lr"])
    theta = bench.train(bench.stacked(bench.initial, bench.fleet.n), bench.everyone, rounds // 2 * steps, settings)
    if bench.drift():
        theta = bench.stacked(bench.initial, bench.fleet.n)
    theta = bench.train(theta, bench.everyone, (rounds - rounds // 2) * steps, settings)
    return Outcome(theta, bench.ledger)


def centralised(bench: Bench, s: Settings) -> Outcome:
    """All rows in one place: what privacy costs. Same number of steps, batches eight times as large."""
    bench.drift()
    share = bench.fleet.train
    known = share.y != PADDING
    pooled = Trainer(bench.net, Share(share.x[known][None], share.y[known][None]))
    settings = LocalSettings(s["lr"], batch=256)
    steps = bench.budget.rounds * bench.budget.steps
    theta = pooled.run(bench.initial[None], np.array([0]), steps, settings, bench.rng)
    return Outcome(bench.stacked(theta[0], bench.fleet.n), bench.ledger)


def centralised_by_family(bench: Bench, s: Settings) -> Outcome:
    """All rows of a true family in one place, a ceiling for one model a family; devices like nobody train alone."""
    bench.drift()
    share, family = bench.fleet.train, bench.fleet.family
    settings = LocalSettings(s["lr"], batch=256)
    steps = bench.budget.rounds * bench.budget.steps
    theta = bench.stacked(bench.initial, bench.fleet.n)
    for k in np.unique(family[family >= 0]):
        rows = np.flatnonzero(family == k)
        known = share.y[rows] != PADDING
        pooled = Trainer(bench.net, Share(share.x[rows][known][None], share.y[rows][known][None]))
        theta[rows] = pooled.run(bench.initial[None], np.array([0]), steps, settings, bench.rng)[0]
    outside = np.flatnonzero(family < 0)
    theta[outside] = bench.train(theta[outside], outside, steps, LocalSettings(s["lr"]))
    return Outcome(theta, bench.ledger)


def fedavg(bench: Bench, s: Settings) -> Outcome:
    """McMahan et al. 2017; with ``mu`` FedProx (Li et al. 2020)."""
    return Outcome(bench.stacked(_global(bench, s, bench.budget.rounds)[0], bench.fleet.n), bench.ledger)


def fedopt(bench: Bench, s: Settings) -> Outcome:
    """FedAdam or FedYogi (Reddi et al. 2021)."""
    return fedavg(bench, s)


def fedadam_ditto(bench: Bench, s: Settings) -> Outcome:
    """FedAdam, then each device fine-tunes with a proximal pull to the global model (Ditto's personal objective)."""
    tuning = s.get("tuning_rounds", 4)
    theta, _ = _global(bench, s, bench.budget.rounds - tuning)
    start = bench.stacked(theta, bench.fleet.n)
    settings = LocalSettings(s["lr"], proximal_mu=s["lam"])
    return Outcome(bench.train(start, bench.everyone, tuning * bench.budget.steps, settings), bench.ledger)


def ditto(bench: Bench, s: Settings) -> Outcome:
    """Li et al. 2021: federated averaging, and beside it a personal model pulled to the global one; half steps each."""
    half = bench.budget.steps // 2
    personal = bench.stacked(bench.initial, bench.fleet.n)
    theta = bench.initial
    for number in range(bench.budget.rounds):
        if number == bench.budget.rounds // 2:
            bench.drift()
        theta, _ = bench.round(theta, bench.everyone, half, LocalSettings(s["lr"]))
        anchor = bench.stacked(theta, bench.fleet.n)
        settings = LocalSettings(s["lr"], proximal_mu=s["lam"])
        personal = bench.train(personal, bench.everyone, half, settings, anchor=anchor)
    return Outcome(personal, bench.ledger)


def fedper(bench: Bench, s: Settings) -> Outcome:
    """Arivazhagan et al. 2019: the classifier head stays on the device, the encoder is averaged."""
    theta = bench.stacked(bench.initial, bench.fleet.n)
    head = np.zeros(bench.net.n_parameters, dtype=np.bool_)
    head[bench.net.head] = True
    shared = float((~head).mean())
    for number in range(bench.budget.rounds):
        if number == bench.budget.rounds // 2:
            bench.drift()
        here = bench.present(bench.everyone)
        trained = bench.train(theta[here], here, bench.budget.steps, LocalSettings(s["lr"]))
        deltas = bench.tampered(trained - theta[here], here)
        bench.exchange(len(here), up=shared, down=shared)
        body, _ = bench.aggregate(theta[0], deltas, here)
        theta[here] = np.where(head, trained, body)
        theta[:, ~head] = body[~head]
    return Outcome(theta, bench.ledger)


def scaffold(bench: Bench, s: Settings) -> Outcome:
    """Karimireddy et al. 2020, option II, plain SGD. Control variates double the bytes: half the rounds."""
    n, steps = bench.fleet.n, 2 * bench.budget.steps
    theta = bench.initial
    settings = LocalSettings(s["lr"], adam=False)
    own = np.zeros((n, bench.net.n_parameters), dtype=np.float32)
    common = np.zeros(bench.net.n_parameters, dtype=np.float32)
    for number in range(bench.budget.rounds // 2):
        if number == bench.budget.rounds // 4:
            bench.drift()
        here = bench.present(bench.everyone)
        start, correction = bench.stacked(theta, len(here)), common[None] - own[here]
        with np.errstate(over="ignore", invalid="ignore"):  # plain SGD with a large rate may diverge
            trained = bench.train(start, here, steps, settings, correction=correction)
        if not np.isfinite(trained).all() or np.abs(trained).max() > _DIVERGED:
            break
        deltas = bench.tampered(trained - theta, here)
        bench.exchange(len(here), up=2.0, down=2.0)
        fresh = own[here] - common[None] - deltas / np.float32(steps * s["lr"])
        common = common + (fresh - own[here]).sum(axis=0) / np.float32(n)
        own[here] = fresh
        theta, _ = bench.aggregate(theta, deltas, here)
    return Outcome(bench.stacked(theta, n), bench.ledger)


def server_of(s: Settings) -> ServerOptimiser | None:
    """Return the server optimiser that the settings name."""
    if "server" not in s:
        return None
    if s["server"] == "momentum":
        return Momentum(s["beta"])
    return FedYogi(s["server_lr"]) if s["server"] == "yogi" else FedAdam(s["server_lr"])


def _global(bench: Bench, s: Settings, rounds: int) -> tuple[Floats, ServerState]:
    theta, state = bench.initial, ServerState.fresh()
    settings = LocalSettings(s["lr"], proximal_mu=s.get("mu", 0.0), mask_absent=s.get("mask", False))
    for number in range(rounds):
        if number == rounds // 2:
            bench.drift()
        theta, state = bench.round(
            theta, bench.everyone, bench.budget.steps, settings, server=server_of(s), state=state
        )
    return theta, state
