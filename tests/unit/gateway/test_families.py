"""Where each device belongs, and why."""

import numpy as np

from gateway.families import Decide, FamilyBook, FamilyRules, ReplaceFamilies, StoreGrouping
from gateway.grouping import Group, Grouping, Scaling, one_group

D = 4
RULES = FamilyRules(warmup_rounds=5, recluster_every=10)
SCALING = Scaling(np.zeros(D), np.full(D, 1.0 / np.sqrt(D)))
"""Makes the distance of two projected vectors equal to that of the vectors, within the clip."""


def group(*members, at=0.0, radius=0.5, keeps=None):
    return Group(members, np.full(D, at), radius, keeps)


def structured(*groups, fits_none=()):
    return Grouping(True, groups, tuple(fits_none), "2 families", {"gate": 0.5}, SCALING)


def unstructured(*devices):
    return one_group({d: np.zeros(D) for d in devices}, "no structure: separation 0.02", {"gate": 0.02})


def book(**memory):
    return FamilyBook(RULES, **memory)


def placed(b, device_id):
    family = b.family_of(device_id)
    return (b.decisions[device_id].kind, None if family is None else family.family_id)


def two_families():
    b = book()
    b.grouping_found(structured(group("a", "b", "c"), group("d", "e", "f", at=1.0), fits_none=["z"]), 5)
    return b


def test_before_the_search_everybody_is_in_warm_up():
    b = book()
    (effect,) = b.device_seen("a", None, 2)
    assert isinstance(effect, Decide)
    assert effect.decision.reason == "families are looked for after round 5; the fallback serves all"
    assert b.device_seen("a", None, 3) == []


def test_a_search_makes_families_and_decides_on_everybody():
    b = two_families()
    assert [placed(b, d) for d in "adz"] == [("member", "family-1"), ("member", "family-2"), ("fits-none", None)]
    assert b.members() == {"family-1": frozenset("abc"), "family-2": frozenset("def")}


def test_its_effects_store_the_grouping_before_families_before_decisions():
    effects = book().grouping_found(structured(group("a", "b", "c")), 5)
    assert [type(e) for e in effects] == [StoreGrouping, ReplaceFamilies, Decide, Decide, Decide]


def test_without_structure_all_are_one_shared_family_with_the_reason():
    b = book()
    b.grouping_found(unstructured("a", "b"), 5)
    assert placed(b, "a") == ("one-family", "family-1")
    assert b.families["family-1"].shared
    assert "no structure: separation 0.02" in b.decisions["a"].reason
    b.device_seen("late", np.full(D, 9.0), 6)
    assert placed(b, "late") == ("one-family", "family-1")


def test_the_one_family_of_all_keeps_its_id_from_search_to_search():
    b = book()
    b.grouping_found(unstructured("a", "b", "c"), 5)
    (first,) = b.families
    b.grouping_found(unstructured("a", "b", "c", "d", "e", "f", "g"), 10)
    assert set(b.families) == {first}
    assert placed(b, "g") == ("one-family", first)


def test_a_late_joiner_inside_the_radius_joins_and_outside_does_not():
    b = two_families()
    b.device_seen("g", np.full(D, 1.2), 6)
    assert placed(b, "g") == ("late-joiner", "family-2")
    b.device_seen("h", np.full(D, 0.5), 6)
    assert placed(b, "h") == ("fits-none", None)
    assert b.decisions["h"].reason == (
        "like no family: nearest is family-1 at distance 1.00, its radius is 0.50; the fallback serves it"
    )


def test_a_device_without_signature_is_placed_when_it_comes():
    b = two_families()
    b.device_seen("g", None, 6)
    assert placed(b, "g") == ("no-signature", None)
    b.device_seen("g", np.full(D, 0.0), 7)
    assert placed(b, "g") == ("late-joiner", "family-1")


def test_between_searches_a_place_is_kept():
    """A new signature alone moves nobody."""
    b = two_families()
    assert b.device_seen("a", np.full(D, 1.0), 6) == []
    assert placed(b, "a") == ("member", "family-1")


def test_ids_go_on_and_are_never_used_twice():
    b = two_families()
    effects = b.grouping_found(structured(group("a", "b", "g", keeps="family-1"), group("x", "y", "w", at=2.0)), 15)
    assert set(b.families) == {"family-1", "family-3"}
    (replace,) = [e for e in effects if isinstance(e, ReplaceFamilies)]
    assert replace.gone == ("family-2",)
    b.grouping_found(structured(group("d", "e", "f")), 25)
    assert set(b.families) == {"family-4"}


def test_members_of_a_family_that_ended_fall_back():
    b = two_families()
    b.grouping_found(structured(group("a", "b", "c", keeps="family-1")), 15)
    assert placed(b, "d") == ("no-signature", None)
    assert b.decisions["d"].reason.startswith("family-2 ended after round 15")


def test_families_outlive_one_search_without_structure_but_not_two():
    b = two_families()
    effects = b.grouping_found(unstructured(*"abcdef"), 15)
    assert [type(e) for e in effects] == [StoreGrouping]
    assert placed(b, "d") == ("member", "family-2")
    b.grouping_found(unstructured(*"abcdef"), 25)
    assert placed(b, "d") == ("one-family", "family-3")


def test_doubt_ends_with_a_search_that_finds_structure():
    b = two_families()
    again = structured(group("a", "b", "c", keeps="family-1"), group("d", "e", "f", keeps="family-2"))
    for grouping in (unstructured(*"abcdef"), again, unstructured(*"abcdef")):
        b.grouping_found(grouping, 15)
    assert placed(b, "d") == ("member", "family-2")


def test_when_a_search_is_due():
    b = book()
    assert [b.search_due(n) for n in (4, 5)] == [False, True]
    b.grouping_found(structured(group("a", "b", "c")), 5)
    assert [b.search_due(n) for n in (6, 14, 15)] == [False, False, True]


def test_a_search_with_too_few_signatures_is_tried_after_every_round():
    b = book()
    b.grouping_found(one_group({"a": np.zeros(D)}, "1 traffic signatures, 6 are needed", {}), 5)
    assert b.search_due(6)


def test_it_goes_on_from_what_the_store_remembers():
    old = two_families()
    b = book(
        families=old.families.values(),
        decisions=old.decisions.values(),
        scaling=SCALING,
        last_number=2,
        searched_after=5,
    )
    assert b.members() == old.members()
    b.device_seen("g", np.full(D, 1.1), 6)
    assert placed(b, "g") == ("late-joiner", "family-2")
    assert not b.search_due(14)
