"""The product's own method: its signatures, clustering, aggregation, training and ladder on the simulated fleet."""

from dataclasses import dataclass, field

import numpy as np

from gateway.aggregation import ClippedMean, ServerOptimiser, ServerState, Sum
from gateway.aggregation.base import RuleState
from gateway.aggregation.trunk import common_encoder, encoder_slice, with_encoder
from testbed.simulation.arms.climbing import Places, Steps, ladder
from testbed.simulation.arms.plain import Settings, server_of
from testbed.simulation.arms.search import search
from testbed.simulation.bench import Bench, Indices, Outcome
from testbed.simulation.local import LocalSettings
from testbed.simulation.net import Floats

FALLBACK = ""
_SAMPLE = 0.1
_LEAST_UPDATES = 3
_MASKED = (("experts", "all"), ("all",))
"""With which ``mask`` the experts train over the device's own classes, and with which the fallback."""


@dataclass(frozen=True, slots=True)
class _How:
    """How rounds are done: training of experts and of the fallback, steps, server optimiser, common encoder, if any."""

    expert: LocalSettings
    fallback: LocalSettings
    steps: int
    server: ServerOptimiser
    encoder: slice | None


@dataclass(slots=True)
class _Models:
    """Weights and the state of the server optimiser by family; the fallback under ``FALLBACK``."""

    held: dict[str, tuple[Floats, ServerState]] = field(default_factory=dict)

    def start(self, family_id: str) -> tuple[Floats, ServerState]:
        """Return a model; a new expert starts as a copy of the fallback."""
        return self.held.get(family_id, self.held[FALLBACK])


def families(bench: Bench, s: Settings) -> Outcome:
    """Warm up one model, look for families, train experts and the fallback, and let each device choose.

    Settings: ``lr``, ``server`` and its settings, ``warmup`` (rounds), ``lam`` (pull while fine-tuning),
    ``tuning_rounds`` and ``alone_rounds`` (steps of the ladder, in rounds), and what ablations take away: ``level1``,
    ``level2``, ``ladder``, ``mask`` (which models train over the device's own classes: ``experts``, ``all`` or
    ``none``), ``tuning_mask`` (whether members fine-tune over theirs), ``common`` (one encoder for all families);
    ``oracle`` gives the true families. Families that agree on what attacks look like (conflict below ``min_conflict``)
    share the fallback.

    The bytes are spent on as many rounds as plain averaging has; the steps of the ladder come off every round's.
    """
    n, rounds = bench.fleet.n, bench.budget.rounds
    tuning, alone = (s["tuning_rounds"], s.get("alone_rounds", 0)) if s["ladder"] else (0, 0)
    extra = (tuning + alone) * bench.budget.steps
    steps = max(1, (rounds * bench.budget.steps - extra) // rounds)
    encoder = encoder_slice(bench.fleet.layout) if s["common"] else None
    expert, fallback = (LocalSettings(s["lr"], mask_absent=s["mask"] in having) for having in _MASKED)
    how = _How(expert, fallback, steps, server_of(s) or Sum(), encoder)
    models = _Models({FALLBACK: (bench.initial, ServerState.fresh())})
    for _ in range(s["warmup"]):
        _round(bench, models, {}, how)
    found = search(bench, s, {})
    left = rounds - s["warmup"]
    expert_rounds = int(left / (1.0 + _SAMPLE)) if found.taught else left
    for number in range(expert_rounds):
        if number == max(0, rounds // 2 - s["warmup"]) and bench.drift():
            found = search(bench, s, found.members)
        _round(bench, models, found.taught, how)
    default = bench.stacked(models.held[FALLBACK][0], n)
    for family_id, members in found.taught.items():
        default[members] = models.start(family_id)[0]
    stability = None if found.grouping is None else found.grouping.measures.get("stability")
    if not s["ladder"]:
        return Outcome(default, bench.ledger, found.labels(n), {}, stability)
    outside = int((left - _SAMPLE * expert_rounds) * steps) if found.taught else 0
    spend = Steps(tuning * bench.budget.steps, alone * bench.budget.steps, outside)
    # No device is tested on a class that it never sees, so that members may learn that such classes are not there.
    tuned = LocalSettings(s["lr"], proximal_mu=s["lam"], mask_absent=s["tuning_mask"])
    places = Places(default, models.held[FALLBACK][0], found.taught_labels(n) >= 0)
    theta, rungs = ladder(bench, places, spend, tuned)
    return Outcome(theta, bench.ledger, found.labels(n), rungs, stability)


def _round(bench: Bench, models: _Models, taught: dict[str, Indices], how: _How) -> None:
    """Do a round: each family its expert; the fallback on a sample of all, or on all where there is no family."""
    here = bench.present(bench.everyone)
    wanted = bench.rng.random(len(here)) < (_SAMPLE if taught else 1.0)
    jobs = {family_id: np.intersect1d(rows, here) for family_id, rows in taught.items()} | {FALLBACK: here[wanted]}
    jobs = {family_id: rows for family_id, rows in jobs.items() if len(rows) >= _LEAST_UPDATES}
    if not jobs:
        return
    updates: dict[str, dict[str, Floats]] = {}
    for settings, keys in ((how.expert, jobs.keys() - {FALLBACK}), (how.fallback, jobs.keys() & {FALLBACK})):
        updates |= _trained(bench, models, {key: jobs[key] for key in jobs if key in keys}, how.steps, settings)
    with bench.gateway_work():
        _aggregate(bench, models, updates, how)


def _trained(
    bench: Bench, models: _Models, jobs: dict[str, Indices], steps: int, settings: LocalSettings
) -> dict[str, dict[str, Floats]]:
    """Train the devices of some models and return the updates that arrive, by model and device."""
    if not jobs:
        return {}
    start = np.concatenate([bench.stacked(models.start(k)[0], len(rows)) for k, rows in jobs.items()])
    devices = np.concatenate(list(jobs.values()))
    trained = bench.train(start, devices, steps, settings)
    deltas = bench.tampered(trained - start, devices)
    bench.exchange(len(devices))
    parts = np.split(deltas, np.cumsum([len(rows) for rows in jobs.values()])[:-1])
    return {k: _named(bench, rows, part) for (k, rows), part in zip(jobs.items(), parts, strict=True)}


def _named(bench: Bench, rows: Indices, deltas: Floats) -> dict[str, Floats]:
    return {bench.fleet.names[i]: deltas[k] for k, i in enumerate(rows)}


def _aggregate(bench: Bench, models: _Models, updates: dict[str, dict[str, Floats]], how: _How) -> None:
    """Move every model with the gateway's own code."""
    rule = ClippedMean()
    common: Floats | None = None
    if how.encoder is not None and len(updates) > 1:
        # One update a device: of its expert where it trained one.
        of_each = dict(updates.get(FALLBACK, {}))
        for family_id, some in updates.items():
            of_each |= some if family_id != FALLBACK else {}
        common = common_encoder(rule, of_each, bench.weights(of_each), how.encoder)
    moved = {}
    for family_id, some in updates.items():
        theta, state = models.start(family_id)
        delta = rule.next(RuleState(), some, bench.weights(some)).delta
        if common is not None and how.encoder is not None:
            delta = with_encoder(delta, how.encoder, common)
        outcome = how.server.next(state, delta)
        moved[family_id] = (theta + outcome.move, outcome.state)
    models.held |= moved
