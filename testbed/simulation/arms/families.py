"""The product's own method: its signatures, clustering, aggregation and ladder on the simulated fleet."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from contract.signatures import PROTOTYPE_UNIT
from contract.taxonomy import CLASS_INDEX
from device_agent.inference.engine import Inference
from device_agent.ladder import Losses, row_losses
from device_agent.rungs import Step, climb
from device_agent.signature import attack_prototypes, traffic_moments
from gateway.aggregation import ClippedMean, ServerOptimiser, ServerState
from gateway.clustering.level1 import SearchSettings, find_families
from gateway.clustering.level2 import ConceptSettings, concept_conflict, split_by_concept
from gateway.grouping import Grouping, Prototype, Vector, one_group
from testbed.simulation.arms.plain import Settings, server_of
from testbed.simulation.bench import Bench, Indices, Outcome
from testbed.simulation.fleet import PADDING, Fleet
from testbed.simulation.local import LocalSettings
from testbed.simulation.net import Floats

_SAMPLE = 0.3
_MIN_SIGNATURE_FLOWS = 20
_EXPERT_MIN_UPDATES = 3


@dataclass(slots=True)
class _Models:
    """The fallback and the experts, each with the state of its server optimiser."""

    fallback: Floats
    fallback_state: ServerState = field(default_factory=ServerState.fresh)
    experts: dict[str, tuple[Floats, ServerState]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Families:
    """Members of each family, whether they have experts of their own, and the search behind them."""

    members: dict[str, Indices]
    grouping: Grouping | None
    agreed: bool = False

    @property
    def taught(self) -> dict[str, Indices]:
        """Members of the families that have an expert."""
        return {} if self.agreed else self.members

    def labels(self, n: int) -> npt.NDArray[np.int64]:
        """Return the family number of each device, -1 for none."""
        result = np.full(n, -1)
        for number, rows in enumerate(self.members.values()):
            result[rows] = number
        return result


def families(bench: Bench, s: Settings) -> Outcome:
    """Warm up one model, look for families, train experts and the fallback, and let each device choose.

    Settings: ``lr``, ``server`` and ``server_lr``, ``warmup``, ``mu`` (proximal pull in rounds), ``lam`` (pull while
    fine-tuning), ``tuning_rounds``, and the ablations: ``level1``, ``level2``, ``oracle`` and
    ``ladder``. Families that agree on what attacks look like (conflict below ``min_conflict``) share the fallback.
    """
    n, rounds, steps = bench.fleet.n, bench.budget.rounds, bench.budget.steps
    local = LocalSettings(s["lr"], proximal_mu=s.get("mu", 0.0))
    server = server_of(s)
    models = _Models(bench.initial)
    for _ in range(s["warmup"]):
        models.fallback, models.fallback_state = bench.round(
            models.fallback,
            bench.everyone,
            steps,
            local,
            rule=ClippedMean(),
            server=server,
            state=models.fallback_state,
        )
    found = _search(bench, s, {})
    tuning = s["tuning_rounds"] if s["ladder"] else 0
    alone = s.get("alone_rounds", 0) if s["ladder"] else 0
    left = rounds - s["warmup"] - tuning - alone
    expert_rounds = int(left / (1.0 + _SAMPLE)) if found.taught else left
    outside = alone + int(left - _SAMPLE * expert_rounds) if s["ladder"] and found.taught else alone
    for number in range(expert_rounds):
        if number == max(0, rounds // 2 - s["warmup"]) and bench.drift():
            found = _search(bench, s, found.members)
        _round(bench, models, found, steps, local, server)
    default = bench.stacked(models.fallback, n)
    for family_id, members in found.taught.items():
        if family_id in models.experts:
            default[members] = models.experts[family_id][0]
    labels = found.labels(n)
    stability = None if found.grouping is None else found.grouping.measures.get("stability")
    if not s["ladder"]:
        return Outcome(default, bench.ledger, labels, {}, stability)
    theta, rungs = _ladder(bench, s, models, default, _taught_labels(found, n), (alone * steps, outside * steps))
    return Outcome(theta, bench.ledger, labels, rungs, stability)


def _taught_labels(found: _Families, n: int) -> npt.NDArray[np.int64]:
    return np.full(n, -1) if found.agreed else found.labels(n)


def _round(
    bench: Bench, models: _Models, found: _Families, steps: int, local: LocalSettings, server: ServerOptimiser | None
) -> None:
    """Do a round: each family its expert; the fallback on a sample of all, or on all where there is no family.

    A device outside has the steps that this leaves it for training alone.
    """
    for family_id, rows in found.taught.items():
        theta, state = models.experts.get(family_id, (models.fallback, ServerState.fresh()))
        here = bench.present(rows)
        if len(here) >= _EXPERT_MIN_UPDATES:
            models.experts[family_id] = bench.round(
                theta, here, steps, local, rule=ClippedMean(), server=server, state=state
            )
    wanted = bench.rng.random(bench.fleet.n) < (_SAMPLE if found.taught else 1.0)
    here = np.flatnonzero(wanted)
    if len(here) >= _EXPERT_MIN_UPDATES:
        models.fallback, models.fallback_state = bench.round(
            models.fallback, here, steps, local, rule=ClippedMean(), server=server, state=models.fallback_state
        )


def _ladder(
    bench: Bench,
    s: Settings,
    models: _Models,
    default: Floats,
    labels: npt.NDArray[np.int64],
    alone_steps: tuple[int, int],
) -> tuple[Floats, dict[str, int]]:
    """Let every device climb; before that train alone: members and the others, who have more steps left."""
    n = bench.fleet.n
    tuning = LocalSettings(s["lr"], proximal_mu=s["lam"])
    tuned = bench.train(default, bench.everyone, s["tuning_rounds"] * bench.budget.steps, tuning)
    candidates: dict[Step, Floats] = {"expert": default, "fallback": bench.stacked(models.fallback, n)}
    candidates["fine-tuned"] = tuned
    own = bench.stacked(bench.initial, n)
    trained = np.zeros(n, dtype=np.bool_)
    for rows, count in zip((np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)), alone_steps, strict=True):
        if count and len(rows):
            own[rows] = bench.train(own[rows], rows, count, LocalSettings(s["lr"]))
            trained[rows] = True
    if trained.any():
        candidates["local"] = own
    share = bench.fleet.validation
    weights = share.weights(bench.fleet.layout.classes).astype(np.float64)
    probs = {step: bench.net.probabilities(theta, share.x) for step, theta in candidates.items()}
    result = default.copy()
    rungs: dict[str, int] = {}
    for i in range(n):
        rows = share.y[i] != PADDING
        losses = {step: _losses(p[i][rows], share.y[i][rows]) for step, p in probs.items()}
        if labels[i] < 0:
            del losses["expert"]
        if "local" in losses and not trained[i]:
            del losses["local"]
        climbed = climb(losses, share.y[i][rows], np.arange(rows.sum()), weights=np.maximum(weights[i][rows], 1e-6))
        step: Step = "fallback" if climbed is None else climbed.step
        result[i] = candidates[step][i]
        rungs[step] = rungs.get(step, 0) + 1
    return result, rungs


def _losses(probs: Floats, y: npt.NDArray[np.int32]) -> Losses:
    return row_losses(Inference(probs, np.zeros(len(y), dtype=np.float32)), y, recon_weight=0.0)


def _search(bench: Bench, s: Settings, before: dict[str, Indices]) -> _Families:
    """Look for families with the gateway's own code; a family of all devices is none (the fallback is its expert)."""
    fleet, names = bench.fleet, bench.fleet.names
    if s.get("oracle"):
        ids = np.unique(fleet.family[fleet.family >= 0])
        if len(ids) < 2:
            return _Families({}, None)
        return _Families({f"family-{k}": np.flatnonzero(fleet.family == k) for k in ids}, None)
    vectors, prototypes, flows = signatures(fleet)
    if bench.poison == "spoof":
        _spoof(bench, vectors, prototypes)
    number_of = {name: i for i, name in enumerate(names)}
    earlier = {family_id: frozenset(names[i] for i in rows) for family_id, rows in before.items()}
    with bench.gateway_work():
        if s["level1"]:
            grouping = find_families(vectors, SearchSettings(), bench.rng, earlier, flows)
        else:
            grouping = one_group(vectors, "level 1 is off", {"gate": 0.0})
        if s["level2"]:
            grouping = split_by_concept(grouping, vectors, prototypes, ConceptSettings(), bench.rng, earlier=earlier)
        conflict = concept_conflict(grouping, prototypes)
    agreed = conflict is not None and conflict < s["min_conflict"] and not grouping.by_concept
    if not grouping.accepted:
        return _Families({}, grouping)
    taken = len(before)
    members: dict[str, Indices] = {}
    for group in grouping.groups:
        taken += group.keeps is None
        family_id = group.keeps or f"family-{taken}"
        members[family_id] = np.array([number_of[d] for d in group.members])
    return _Families(members, grouping, agreed)


def signatures(fleet: Fleet) -> tuple[dict[str, Vector], dict[str, dict[str, Prototype]], dict[str, int]]:
    """Return what the devices of a fleet send: moments, prototypes, and the flows behind the moments."""
    vectors, prototypes, flows = {}, {}, {}
    for i, name in enumerate(fleet.names):
        x = np.concatenate([part.x[i][part.y[i] != PADDING] for part in (fleet.train, fleet.validation)])
        y = np.concatenate([part.y[i][part.y[i] != PADDING] for part in (fleet.train, fleet.validation)])
        moments = traffic_moments(x[y == 0], min_flows=_MIN_SIGNATURE_FLOWS)
        if moments is None:
            continue
        vectors[name] = np.concatenate([moments.mean, moments.log_std]).astype(np.float64)
        flows[name] = moments.flows
        counts = np.bincount(y)
        prototypes[name] = {
            label: Prototype(values.astype(np.float64) * PROTOTYPE_UNIT, int(counts[CLASS_INDEX[label]]))
            for label, values in attack_prototypes(x, y).items()
        }
    return vectors, prototypes, flows


def _spoof(bench: Bench, vectors: dict[str, Vector], prototypes: dict[str, dict[str, Prototype]]) -> None:
    """Let each hostile device send the signature of an honest device of another family."""
    names = bench.fleet.names
    honest = np.flatnonzero(~bench.fleet.hostile & (bench.fleet.family >= 0))
    for i in np.flatnonzero(bench.fleet.hostile):
        others = honest[bench.fleet.family[honest] != bench.fleet.family[i]]
        victim = names[int(bench.rng.choice(others if len(others) else honest))]
        vectors[names[i]] = vectors[victim] + 0.01 * bench.rng.normal(size=vectors[victim].shape)
        prototypes[names[i]] = dict(prototypes[victim])
