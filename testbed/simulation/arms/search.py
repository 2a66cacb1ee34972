"""Signatures of a simulated fleet and the families that the gateway's own search finds in them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.signatures import PROTOTYPE_UNIT
from contract.taxonomy import CLASS_INDEX
from device_agent.signature import attack_prototypes, traffic_moments
from gateway.clustering.level1 import SearchSettings, find_families
from gateway.clustering.level2 import ConceptSettings, concept_conflict, split_by_concept
from gateway.grouping import Grouping, Prototype, Vector, one_group
from testbed.simulation.arms.plain import Settings
from testbed.simulation.bench import Bench, Indices
from testbed.simulation.fleet import PADDING, Fleet

SIGNATURE_BYTES = 1024
"""Charged for each search; the largest that the contract allows."""
_MIN_SIGNATURE_FLOWS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a search found.

    Attributes
    ----------
    members
        Members of each family.
    grouping
        The search; ``None`` if the truth was given.
    agreed
        Whether the families agree on what attacks look like, so that they share the fallback.
    """

    members: dict[str, Indices]
    grouping: Grouping | None
    agreed: bool = False

    @property
    def taught(self) -> dict[str, Indices]:
        """Members of the families that have an expert."""
        return {} if self.agreed else self.members

    def labels(self, n: int) -> npt.NDArray[np.int64]:
        """Return the family number of each device, shape ``(n,)``, -1 for none."""
        return _labels(self.members, n)

    def taught_labels(self, n: int) -> npt.NDArray[np.int64]:
        """Return the same, -1 also for devices whose family has no expert."""
        return _labels(self.taught, n)


def _labels(members: dict[str, Indices], n: int) -> npt.NDArray[np.int64]:
    result = np.full(n, -1)
    for number, rows in enumerate(members.values()):
        result[rows] = number
    return result


def search(bench: Bench, s: Settings, before: dict[str, Indices]) -> Found:
    """Look for families with the gateway's own code; a family of all devices is none (the fallback is its expert)."""
    fleet, names = bench.fleet, bench.fleet.names
    if s.get("oracle"):
        ids = np.unique(fleet.family[fleet.family >= 0])
        if len(ids) < 2:
            return Found({}, None)
        return Found({f"family-{k}": np.flatnonzero(fleet.family == k) for k in ids}, None)
    vectors, prototypes, flows = signatures(fleet)
    bench.exchange(fleet.n, up=SIGNATURE_BYTES / bench.model_bytes, down=0.0)
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
        return Found({}, grouping)
    taken = len(before)
    members: dict[str, Indices] = {}
    for group in grouping.groups:
        taken += group.keeps is None
        family_id = group.keeps or f"family-{taken}"
        members[family_id] = np.array([number_of[d] for d in group.members])
    return Found(members, grouping, agreed)


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
