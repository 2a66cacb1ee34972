"""Which device belongs to which family, and why. No I/O; every decision has a reason and is stored.

Families come from a search over all signatures (``gateway.clustering``) and live until the next one. Between two
searches a device that turns up late joins the nearest family if it lies within its radius; else the fallback serves it.

Longer than most: searches, late joiners and moves change the same book.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gateway.grouping import Group, Grouping, Scaling, Vector, make_group

_NAMED = 3
_TWIN_SHARE = 0.5
"""Families whose middles are nearer than this share of a radius have the same traffic."""


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """A living family.

    Attributes
    ----------
    family_id
        Its id, kept over searches as long as most members stay.
    created_round
        Round after which it was found.
    radius, centroid
        Where late joiners must lie.
    shared
        It holds every device because no structure was found; the fallback is its expert.
    """

    family_id: str
    created_round: int
    radius: float
    centroid: Vector
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a device belongs from now on.

    Attributes
    ----------
    device_id, family_id
        The device and its family, ``None`` if the fallback alone serves it.
    kind
        ``warm-up``, ``no-signature``, ``member``, ``late-joiner``, ``fits-none`` or ``one-family``; between searches
        ``drifted``, ``moved``, ``merged`` or ``dissolved``.
    reason
        One line for a person.
    round_number
        After which round it fell.
    """

    device_id: str
    family_id: str | None
    kind: str
    reason: str
    round_number: int


@dataclass(frozen=True, slots=True)
class Decide:
    """Store a decision."""

    decision: Decision


@dataclass(frozen=True, slots=True, eq=False)
class ReplaceFamilies:
    """Store these as the living families, found by this grouping; ``gone`` are the ids that ended."""

    families: tuple[Family, ...]
    gone: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class StoreGrouping:
    """Store the outcome of a search, accepted or not."""

    grouping: Grouping
    round_number: int


@dataclass(frozen=True, slots=True)
class FamilyRules:
    """When families are looked for; meanings as in the configuration.

    Attributes
    ----------
    warmup_rounds, recluster_every
        As in the configuration.
    """

    warmup_rounds: int
    recluster_every: int


FamilyEffect = Decide | ReplaceFamilies | StoreGrouping


class FamilyBook:
    """Families and where each device belongs.

    Parameters
    ----------
    rules
        When families are looked for.
    families, decisions, scaling
        What the store remembers.
    last_number
        Highest family number ever given.
    searched_after
        Round after which the last search ran, ``None`` before the first.
    separation
        How far apart the families were when they were found, ``None`` if unknown.
    """

    def __init__(
        self,
        rules: FamilyRules,
        *,
        families: Iterable[Family] = (),
        decisions: Iterable[Decision] = (),
        scaling: Scaling | None = None,
        last_number: int = 0,
        searched_after: int | None = None,
        separation: float | None = None,
    ) -> None:
        self._rules = rules
        self.families = {f.family_id: f for f in families}
        self.decisions = {d.device_id: d for d in decisions}
        self._scaling = scaling
        self._last_number = last_number
        self._searched_after = searched_after
        self._looked_after = searched_after
        self._doubted = False
        self.separation = separation

    def family_of(self, device_id: str) -> Family | None:
        """Return the family of a device, if it has one."""
        decision = self.decisions.get(device_id)
        return None if decision is None or decision.family_id is None else self.families.get(decision.family_id)

    def members(self) -> dict[str, frozenset[str]]:
        """Return the devices of each living family."""
        result: dict[str, set[str]] = {family_id: set() for family_id in self.families}
        for decision in self.decisions.values():
            if decision.family_id in result:
                result[decision.family_id].add(decision.device_id)
        return {family_id: frozenset(devices) for family_id, devices in result.items()}

    def search_due(self, round_number: int) -> bool:
        """Whether families should be looked for after this round."""
        if round_number < self._rules.warmup_rounds:
            return False
        if self._looked_after is None or not self.families:
            return True
        return round_number - self._looked_after >= self._rules.recluster_every

    def newcomers_outside(self) -> set[str]:
        """Return the devices that came or drifted since the last search and fit no family."""
        since = self._searched_after or 0
        return {
            d.device_id
            for d in self.decisions.values()
            if d.family_id is None and d.kind in {"fits-none", "drifted"} and d.round_number > since
        }

    def families_kept(self, round_number: int) -> None:
        """Note that families were looked at again and stay."""
        self._looked_after = round_number

    def rounds_since_search(self, round_number: int) -> int | None:
        """Return the rounds since the last search that could judge, ``None`` before the first or without families."""
        if self._searched_after is None or not self.families:
            return None
        return round_number - self._searched_after

    def device_seen(self, device_id: str, vector: Vector | None, round_number: int) -> list[FamilyEffect]:
        """Place a device that has no place yet, or had none for want of a signature."""
        old = self.decisions.get(device_id)
        if old is not None and old.kind not in {"warm-up", "no-signature"}:
            return []
        return self._decide(self._place(device_id, vector, round_number))

    def device_drifted(
        self, device_id: str, vector: Vector, features: Sequence[str], round_number: int
    ) -> list[FamilyEffect]:
        """Place a device anew whose benign traffic changed; nobody else is touched."""
        place = self._place(device_id, vector, round_number)
        if place.kind in {"warm-up", "one-family"}:
            return []
        old = self.decisions.get(device_id)
        family_id, where = place.family_id, place.reason
        if family_id is None and old is not None and old.family_id in self.families and self._reaches(old, vector):
            family_id, where = old.family_id, f"still within the radius of {old.family_id}"
        reason = f"its traffic drifted ({', '.join(features[:_NAMED])}); {where}"
        return self._decide(Decision(device_id, family_id, "drifted", reason, round_number), always=True)

    def decide(self, decision: Decision) -> list[FamilyEffect]:
        """Take a decision that fell between two searches."""
        return self._decide(decision, always=True)

    def end_family(
        self,
        gone: str,
        to: str | None,
        decided: tuple[str, str],
        round_number: int,
        vectors: Mapping[str, Vector],
    ) -> list[FamilyEffect]:
        """End a family; its members go to another one, or to the fallback.

        Parameters
        ----------
        gone, to
            The family that ends, and the one that takes its members, ``None`` for the fallback.
        decided
            Kind and reason of the decisions.
        round_number
            After which round.
        vectors
            Signatures, by which the family that grows finds its new middle and radius.
        """
        members = sorted(d.device_id for d in self.decisions.values() if d.family_id == gone)
        del self.families[gone]
        effects: list[FamilyEffect] = []
        for device_id in members:
            effects += self._decide(Decision(device_id, to, *decided, round_number), always=True)
        there = [d.device_id for d in self.decisions.values() if d.family_id == to and d.device_id in vectors]
        if to is not None and self._scaling is not None and there:
            grown = make_group(there, self._scaling.project(np.stack([vectors[d] for d in there])))
            self.families[to] = replace(self.families[to], radius=grown.radius, centroid=grown.centroid)
        return [ReplaceFamilies(tuple(self.families.values()), (gone,)), *effects]

    def grouping_found(self, grouping: Grouping, round_number: int) -> list[FamilyEffect]:
        """Take the outcome of a search.

        Families that exist outlive one search that finds nothing; the second ends them.
        """
        # A search that had too few signatures to judge by is tried again after every round.
        self._searched_after = self._looked_after = round_number if grouping.judged else None
        effects: list[FamilyEffect] = [StoreGrouping(grouping, round_number)]
        structured = any(not family.shared for family in self.families.values())
        if structured and not grouping.accepted and not self._doubted:
            self._doubted = True
            return effects
        self._doubted = False
        before = set(self.families)
        shared_before = next((family.family_id for family in self.families.values() if family.shared), None)
        self._scaling = grouping.scaling
        self.separation = grouping.measures.get("separation")
        self.families = {}
        for group in grouping.groups:
            # The one family of all devices stays itself, whoever joined or left.
            kept = group if grouping.accepted else replace(group, keeps=shared_before)
            self._found(kept, grouping, round_number, before, effects)
        for device_id in grouping.fits_none:
            reason = f"like no family in the search after round {round_number}; the fallback serves it"
            effects += self._decide(Decision(device_id, None, "fits-none", reason, round_number), always=True)
        for decision in list(self.decisions.values()):
            if decision.family_id is not None and decision.family_id not in self.families:
                reason = f"{decision.family_id} ended after round {round_number}; no signature to place it by"
                left = Decision(decision.device_id, None, "no-signature", reason, round_number)
                effects += self._decide(left)
        gone = tuple(sorted(before - set(self.families)))
        effects.insert(1, ReplaceFamilies(tuple(self.families.values()), gone))
        return effects

    def _found(
        self, group: Group, grouping: Grouping, number: int, before: set[str], effects: list[FamilyEffect]
    ) -> None:
        """Make a family of a group and place its members."""
        if group.keeps is not None and group.keeps in before:
            family_id = group.keeps
        else:
            self._last_number += 1
            family_id = f"family-{self._last_number}"
        shared = not grouping.accepted
        self.families[family_id] = Family(family_id, number, group.radius, group.centroid, shared)
        others = len(group.members) - 1
        for device_id in group.members:
            if shared:
                reason = f"one family of all devices: {grouping.reason}; the fallback is its expert"
            else:
                reason = f"traffic like that of {others} others in the search after round {number}"
            kind = "one-family" if shared else "member"
            effects += self._decide(Decision(device_id, family_id, kind, reason, number), always=True)

    def _place(self, device_id: str, vector: Vector | None, number: int) -> Decision:
        if not self.families:
            reason = f"families are looked for after round {self._rules.warmup_rounds}; the fallback serves all"
            return Decision(device_id, None, "warm-up", reason, number)
        shared = next((f for f in self.families.values() if f.shared), None)
        if shared is not None:
            reason = "one family of all devices; the fallback is its expert"
            return Decision(device_id, shared.family_id, "one-family", reason, number)
        if vector is None or self._scaling is None:
            reason = "no traffic signature yet; the fallback serves it"
            return Decision(device_id, None, "no-signature", reason, number)
        z = self._scaling.project(vector)
        distances: Mapping[str, float] = {
            f.family_id: float(np.linalg.norm(z - f.centroid)) for f in self.families.values()
        }
        nearest = min(distances, key=lambda family_id: (distances[family_id], family_id))
        distance, radius = distances[nearest], self.families[nearest].radius
        twins = self._twins(nearest)
        if distance <= radius and twins:
            reason = (
                f"traffic like that of {nearest} and {', '.join(twins)}, which differ in what attacks look like; "
                "the fallback serves it until the next search"
            )
            return Decision(device_id, None, "fits-none", reason, number)
        if distance <= radius:
            reason = f"joined late: distance {distance:.2f} to {nearest}, within its radius {radius:.2f}"
            return Decision(device_id, nearest, "late-joiner", reason, number)
        reason = (
            f"like no family: nearest is {nearest} at distance {distance:.2f}, its radius is {radius:.2f}; "
            "the fallback serves it"
        )
        return Decision(device_id, None, "fits-none", reason, number)

    def _reaches(self, decision: Decision, vector: Vector) -> bool:
        """Whether a signature lies within the radius of the family that a decision names."""
        family = self.families.get(decision.family_id or "")
        if family is None or self._scaling is None:
            return False
        return float(np.linalg.norm(self._scaling.project(vector) - family.centroid)) <= family.radius

    def _twins(self, family_id: str) -> list[str]:
        """Return the families that traffic does not tell from this one: they were split by what attacks look like."""
        one = self.families[family_id]
        return sorted(
            other.family_id
            for other in self.families.values()
            if other is not one and np.linalg.norm(other.centroid - one.centroid) <= _TWIN_SHARE * one.radius
        )

    def _decide(self, decision: Decision, *, always: bool = False) -> list[FamilyEffect]:
        old = self.decisions.get(decision.device_id)
        same = old is not None and (old.family_id, old.kind) == (decision.family_id, decision.kind)
        if same and not always:
            return []
        self.decisions[decision.device_id] = decision
        return [Decide(decision)]
