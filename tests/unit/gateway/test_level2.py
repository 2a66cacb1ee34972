"""Families by attack: the split inside a group of alike devices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clustering.level2 import (
    ConceptSettings,
    concept_conflict,
    concept_distances,
    concept_labels,
    one_family_if_agreed,
    split_by_concept,
)
from gateway.grouping import Grouping, Prototype, fit_scaling, make_group, one_group

CLASSES = ("scan", "dos_flood", "c2_beacon")
D = 12


def fleet(n, concepts, *, seed=0, noise=0.15, seen=2):
    """Devices whose attacks look by concept; each has seen some of the classes."""
    rng = np.random.default_rng(seed)
    looks = rng.normal(0.0, 1.0, (concepts, len(CLASSES), D))
    result = {}
    for i in range(n):
        names = rng.choice(len(CLASSES), seen, replace=False)
        result[f"d{i:03d}"] = {
            CLASSES[c]: Prototype(looks[i % concepts, c] + noise * rng.normal(0.0, 1.0, D), 20) for c in names
        }
    return result


def search(prototypes, **changes):
    vectors = {device: np.zeros(2 * D) for device in prototypes}
    grouping = one_group(vectors, "no structure", {})
    return split_by_concept(grouping, vectors, prototypes, ConceptSettings(**changes), np.random.default_rng(0))


def test_devices_that_disagree_on_attacks_are_split():
    found = search(fleet(24, 2))
    assert found.accepted
    assert found.by_concept
    assert {frozenset(g.members) for g in found.groups} == {
        frozenset(f"d{i:03d}" for i in range(k, 24, 2)) for k in range(2)
    }


def test_devices_that_agree_are_not_split():
    found = search(fleet(24, 1))
    assert not found.accepted
    assert len(found.groups) == 1
    assert found.measures["concept"] < 0.3


def test_label_skew_alone_is_no_reason():
    """Each device saw one class; pairs without a shared class tell nothing."""
    assert len(search(fleet(30, 1, seen=1)).groups) == 1


def test_parts_below_the_least_size_fit_none():
    """Three devices of a second concept are too few for a family of their own."""
    prototypes = fleet(20, 2, seen=3)
    for device in [f"d{i:03d}" for i in range(7, 20, 2)]:
        prototypes.pop(device)
    assert len(search(prototypes).groups) == 1


def test_too_few_shared_classes_are_not_judged():
    prototypes = fleet(24, 2, seen=1)
    assert len(search(prototypes, shared_share=0.9).groups) == 1


def test_a_split_family_keeps_its_id():
    prototypes = fleet(24, 2)
    vectors = {device: np.zeros(2 * D) for device in prototypes}
    earlier = {"family-7": frozenset(f"d{i:03d}" for i in range(0, 24, 2))}
    found = split_by_concept(
        one_group(vectors, "no structure", {}),
        vectors,
        prototypes,
        ConceptSettings(),
        np.random.default_rng(0),
        earlier=earlier,
    )
    assert sorted(str(g.keeps) for g in found.groups) == ["None", "family-7"]


def test_devices_without_attacks_do_not_break_it():
    prototypes = fleet(24, 2) | {"quiet-1": {}, "quiet-2": {}}
    found = search(prototypes)
    assert {d for g in found.groups for d in g.members} | set(found.fits_none) == set(prototypes)


def test_a_large_fleet_is_sampled():
    found = search(fleet(2_300, 2, seen=2, noise=0.05))
    assert sorted(len(g.members) for g in found.groups) == [1_150, 1_150]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(8, 26))
def test_order_and_names_do_not_matter(seed, concepts, n):
    """Distances are symmetric with a zero diagonal; the split is a partition whatever the order."""
    prototypes = list(fleet(n, concepts, seed=seed).values())
    distances, shared = concept_distances(prototypes)
    assert distances == pytest.approx(distances.T)
    assert not distances.diagonal().any()
    assert 0.0 <= shared <= 1.0
    forward = concept_labels(prototypes, ConceptSettings(), np.random.default_rng(0))
    backward = concept_labels(prototypes[::-1], ConceptSettings(), np.random.default_rng(0))
    assert forward[1] == pytest.approx(backward[1], abs=1e-6)


def two_kinds(prototypes):
    """A search that found two kinds of traffic: even and odd devices."""
    vectors = {device: np.full(2 * D, float(i % 2)) for i, device in enumerate(prototypes)}
    scaling = fit_scaling(np.stack(list(vectors.values())))
    groups = []
    for k in range(2):
        names = [d for i, d in enumerate(prototypes) if i % 2 == k]
        groups.append(make_group(names, scaling.project(np.stack([vectors[d] for d in names]))))
    return Grouping(True, tuple(groups), (), "two kinds", {"gate": 0.9}, scaling), vectors


def test_conflict_tells_families_that_disagree_from_families_that_agree():
    for concepts, disagree in ((2, True), (1, False)):
        prototypes = fleet(24, concepts)
        grouping, _ = two_kinds(prototypes)
        assert (concept_conflict(grouping, prototypes) > 0.3) == disagree


def test_families_that_agree_share_a_model_if_that_is_wanted():
    prototypes = fleet(24, 1)
    grouping, vectors = two_kinds(prototypes)
    shared = one_family_if_agreed(grouping, vectors, prototypes, 0.1)
    assert not shared.accepted
    assert "agree on attacks" in shared.reason
    kept = one_family_if_agreed(grouping, vectors, prototypes, 0.0)
    assert kept.accepted
    assert "conflict" in kept.measures


def test_families_that_disagree_keep_their_experts():
    prototypes = fleet(24, 2)
    grouping, vectors = two_kinds(prototypes)
    assert one_family_if_agreed(grouping, vectors, prototypes, 0.1).accepted


def test_without_attacks_nothing_is_known_about_conflict():
    quiet = {device: {} for device in fleet(24, 1)}
    grouping, vectors = two_kinds(quiet)
    assert concept_conflict(grouping, quiet) is None
    assert one_family_if_agreed(grouping, vectors, quiet, 0.1) is grouping
