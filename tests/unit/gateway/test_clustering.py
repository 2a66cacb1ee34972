"""The search for families: finds what is there, invents nothing, keeps ids."""

import itertools

import numpy as np
import pytest

from gateway.clustering.identity import match_families
from gateway.clustering.level1 import SearchSettings, find_families, separation_of
from gateway.grouping import fit_scaling, make_group

D = 122
SETTINGS = SearchSettings()


def named(rows):
    return {f"d{i:02d}": row for i, row in enumerate(rows)}


def search(rows, seed=0, **kwargs):
    return find_families(named(rows), SETTINGS, np.random.default_rng(seed), **kwargs)


def planted(sizes, outliers, seed, *, spread=2.0, noise=0.05):
    """Families around random centres whose members vary in two directions of their own, and lone devices."""
    rng = np.random.default_rng([seed, 9])
    rows = []
    for size in sizes:
        centre, ways = rng.uniform(0.2, 0.2 + spread, D), rng.normal(0.0, noise, (2, D))
        rows.append(centre + rng.normal(0.0, noise, (size, D)) + rng.normal(0.0, 1.0, (size, 2)) @ ways)
    rows += [rng.uniform(0.2, 0.2 + spread, (1, D)) for _ in range(outliers)]
    return np.concatenate(rows)


def expected(sizes, outliers):
    starts = np.cumsum([0, *sizes])
    groups = {frozenset(f"d{i:02d}" for i in range(a, b)) for a, b in itertools.pairwise(starts)}
    return groups, {f"d{i:02d}" for i in range(starts[-1], starts[-1] + outliers)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("sizes", "outliers"), [((4, 4), 2), ((5, 4), 1), ((6, 6), 0), ((4, 4, 4), 2), ((8, 8, 6), 2), ((12, 10, 8), 4)]
)
def test_planted_families_are_found_and_outliers_fit_none(sizes, outliers, seed):
    grouping = search(planted(sizes, outliers, seed), seed)
    families, lone = expected(sizes, outliers)
    assert grouping.accepted, grouping.reason
    found = {frozenset(group.members) for group in grouping.groups}
    # A member at the rim may count as noise; nobody may sit in a foreign family.
    assert len(found) == len(families)
    assert all(any(group <= family for family in families) for group in found)
    assert lone <= set(grouping.fits_none)
    assert len(grouping.fits_none) <= outliers + 1


def full_rank(n, rng):
    return rng.normal(0.0, 0.05, (n, D))


def one_direction(n, rng):
    return rng.normal(0.0, 1.0, (n, 1)) @ rng.normal(0.0, 0.2, (1, D)) + rng.normal(0.0, 0.01, (n, D))


def two_directions(n, rng):
    return rng.normal(0.0, 1.0, (n, 2)) @ rng.normal(0.0, 0.2, (2, D)) + rng.normal(0.0, 0.01, (n, D))


def skewed(n, rng):
    return np.exp(rng.normal(0.0, 1.0, (n, 3))) @ rng.normal(0.0, 0.2, (3, D)) + rng.normal(0.0, 0.02, (n, D))


def spikes(n, rng):
    return rng.normal(0.0, 0.03, (n, D)) + (rng.random((n, D)) < 0.05) * rng.uniform(0.2, 1.0, (n, D))


@pytest.mark.parametrize(
    ("make", "by_chance"), [(full_rank, 0), (spikes, 0), (one_direction, 9), (two_directions, 9), (skewed, 9)]
)
def test_no_families_are_invented(make, by_chance):
    """48 fleets of 8 to 40 devices without structure. A continuum along one to three directions can fall into heaps:
    in a fleet of ten nothing tells that from a family, so up to a fifth may pass; clouds in all directions never do.
    """
    believed = []
    for n in (8, 10, 12, 16, 24, 40):
        for seed in range(8):
            rng = np.random.default_rng([seed, n])
            grouping = search(rng.uniform(0.2, 2.5, D) + make(n, rng), seed)
            assert grouping.accepted or len(grouping.groups) == 1
            believed += [(n, seed, grouping.measures)] if grouping.accepted else []
    assert len(believed) <= by_chance, believed


def same_traffic(n, rng, flows=300, run=3):
    """Signatures of devices with one and the same traffic: bursts of alike flows from three activities."""
    activities = rng.uniform(0.2, 2.0, (3, D // 2))
    rows = []
    for _ in range(n):
        kinds = np.repeat(rng.integers(0, 3, flows // run + 1), run)[:flows]
        x = activities[kinds] + rng.normal(0.0, 0.1, (flows, D // 2))
        rows.append(np.concatenate([x.mean(axis=0), np.log(x.std(axis=0) + 1e-3)]))
    return np.stack(rows)


def test_devices_with_the_same_traffic_are_one_family():
    """The contrast test stops what separation, stability and chance let through."""
    passed = {"with": 0, "without": 0}
    for seed in range(24):
        rows = same_traffic((8, 12, 24)[seed % 3], np.random.default_rng([seed, 4]))
        flows = dict.fromkeys(named(rows), 300)
        with_contrast = search(rows, seed, flows=flows)
        passed["with"] += with_contrast.accepted
        passed["without"] += search(rows, seed).accepted
        assert "hardly differ" in with_contrast.reason
    assert passed["with"] == 0
    assert passed["without"] > 0


def test_one_family_says_why():
    grouping = search(full_rank(12, np.random.default_rng(0)))
    assert not grouping.accepted
    assert grouping.groups[0].members == tuple(sorted(named(range(12))))
    assert grouping.fits_none == ()
    assert grouping.reason.startswith("no structure: separation 0.")


def test_too_few_signatures_are_one_family_and_not_a_judgement():
    grouping = search(full_rank(5, np.random.default_rng(0)))
    assert not grouping.accepted
    assert not grouping.judged
    assert grouping.reason == "5 traffic signatures, 6 are needed to look for families"


def test_equal_signatures_are_one_family():
    """All deviations are zero; nothing may divide by them."""
    grouping = search(np.ones((10, D)))
    assert not grouping.accepted
    assert grouping.groups[0].radius == 0.0


def test_constant_components_neither_explode_nor_hide_a_family():
    """Most components are equal on all devices up to rounding; a third of the fleet differs in ten of them."""
    rng = np.random.default_rng(1)
    rows = np.ones((12, D)) + rng.normal(0.0, 1e-4, (12, D))
    rows[:4, :10] += 1.0
    rows[4:8, 10:20] += 1.0
    scaling = fit_scaling(rows)
    assert np.isfinite(scaling.project(rows)).all()
    assert np.abs(scaling.project(rows)[:, 20:]).max() < 0.01
    grouping = search(rows)
    assert {frozenset(g.members) for g in grouping.groups} == {
        frozenset(f"d{i:02d}" for i in part) for part in (range(4), range(4, 8), range(8, 12))
    }


def test_the_order_of_devices_and_the_call_are_irrelevant():
    rows = named(planted((5, 5, 4), 2, 3))
    results = [
        find_families(dict(items), SETTINGS, np.random.default_rng(5))
        for items in (list(rows.items()), list(rows.items())[::-1])
    ]
    members = [[group.members for group in result.groups] for result in results]
    assert members[0] == members[1]
    assert results[0].measures == results[1].measures
    assert results[0].fits_none == results[1].fits_none


def test_a_radius_holds_the_members_and_not_the_other_family():
    rows = planted((6, 6), 0, 1)
    grouping = search(rows)
    assert len(grouping.groups) == 2
    for group in grouping.groups:
        for device, row in named(rows).items():
            distance = np.linalg.norm(grouping.scaling.project(row) - group.centroid)
            assert (distance <= group.radius) == (device in group.members)


def test_a_group_of_many_takes_its_radius_from_the_99_percent_quantile():
    z = np.linspace(-1.0, 1.0, 201)[:, None]
    assert make_group([f"d{i}" for i in range(201)], z).radius == pytest.approx(1.5 * 0.99)


def test_large_fleets_are_sampled_and_the_others_join():
    """2,300 devices in three families and 23 lone ones: nearly all land where they belong."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(0.2, 2.2, (3, D))
    rows = np.concatenate([c + rng.normal(0.0, 0.1, (759, D)) for c in centres] + [rng.uniform(0.2, 2.2, (23, D))])
    vectors = {f"d{i:04d}": row for i, row in enumerate(rows)}
    grouping = find_families(vectors, SETTINGS, np.random.default_rng(1))
    assert grouping.accepted
    assert [len(g.members) for g in grouping.groups] == pytest.approx([759] * 3, abs=8)
    assert len(grouping.fits_none) >= 20


def test_ids_follow_the_best_overlap():
    """A swap of one member keeps both ids; a family that mostly left is a new one."""
    families = {"family-1": frozenset("abcd"), "family-2": frozenset("efgh")}
    groups = [frozenset("efga"), frozenset("bcdh"), frozenset("xyz")]
    assert match_families(groups, families) == ["family-2", "family-1", None]


def test_a_split_family_gives_its_id_to_the_larger_part():
    families = {"family-1": frozenset("abcdefgh")}
    assert match_families([frozenset("abc"), frozenset("defgh")], families) == [None, "family-1"]


def test_less_than_half_in_common_is_a_new_family():
    assert match_families([frozenset("abxyz")], {"family-1": frozenset("abcde")}) == [None]
    assert match_families([], {"family-1": frozenset("ab")}) == []
    assert match_families([frozenset("ab")], {}) == [None]


def test_a_second_search_keeps_the_ids():
    rows = planted((5, 5), 1, 4)
    first = search(rows)
    earlier = {f"family-{i + 1}": frozenset(g.members) for i, g in enumerate(first.groups)}
    second = search(rows, 9, earlier=earlier)
    assert [g.keeps for g in second.groups] == ["family-1", "family-2"]


def test_noise_that_devices_add_makes_no_contrast():
    """Devices with the same traffic differ by their noise; with the noise known, nothing is believed."""
    rng = np.random.default_rng(3)
    half = D // 2
    rows = np.concatenate(
        [np.full((12, half), 1.0) + rng.normal(0.0, 0.05, (12, half)), np.full((12, half), -2.0)], axis=1
    )
    flows = dict.fromkeys(named(rows), 2_000)
    known = search(rows, flows=flows, noise=dict.fromkeys(flows, 0.05))
    assert not known.accepted
    assert known.measures["contrast"] < SETTINGS.contrast
    unknown = search(rows, flows=flows)
    assert unknown.measures.get("contrast", 99.0) > SETTINGS.contrast


def test_the_separation_of_families_falls_when_their_members_mix():
    rows = planted((6, 6), 0, 0)
    names = sorted(named(rows))
    members = {"family-1": frozenset(names[:6]), "family-2": frozenset(names[6:])}
    scaling = fit_scaling(rows)
    apart = separation_of(named(rows), members, scaling)
    assert apart > 0.5
    mixed = {"family-1": frozenset(names[::2]), "family-2": frozenset(names[1::2])}
    assert separation_of(named(rows), mixed, scaling) < 0.5 * apart
    assert separation_of(named(rows), {"family-1": frozenset(names)}, scaling) == 0.0
