"""How families change between two searches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lifecycle import (
    LifeRules,
    Moved,
    Offer,
    Streaks,
    check_merges,
    check_move,
    check_sizes,
    search_again,
)

RULES = LifeRules()
ALIKE = {"a": {"a": 0.50, "b": 0.51}, "b": {"a": 0.52, "b": 0.50}}
APART = {"a": {"a": 0.50, "b": 0.90}, "b": {"a": 0.50, "b": 0.50}}


def test_families_merge_after_three_checks_and_the_larger_keeps_its_id():
    seen = Streaks()
    for _ in range(2):
        seen, merged = check_merges(ALIKE, {"a": 3, "b": 9}, seen, RULES)
        assert merged == []
    seen, (merge,) = check_merges(ALIKE, {"a": 3, "b": 9}, seen, RULES)
    assert (merge.kept, merge.gone) == ("b", "a")
    assert "serve each other's members" in merge.reason
    assert seen.merges == {}


def test_one_bad_check_starts_the_count_again():
    seen = Streaks()
    for losses in (ALIKE, ALIKE, APART, ALIKE, ALIKE):
        seen, merged = check_merges(losses, {}, seen, RULES)
        assert merged == []


def test_one_direction_is_not_enough():
    """The expert of a serves b's members, but not the other way round."""
    seen = Streaks()
    for _ in range(5):
        seen, merged = check_merges(APART, {}, seen, RULES)
    assert merged == []


def test_a_pair_that_was_not_measured_keeps_its_count():
    seen = Streaks(merges={("a", "b"): 2})
    seen, merged = check_merges({"a": {"a": 0.5}, "b": {"b": 0.5}}, {}, seen, RULES)
    assert (seen.merges, merged) == ({("a", "b"): 2}, [])


def test_three_alike_families_merge_one_pair_at_a_time():
    losses = {x: dict.fromkeys("abc", 0.5) for x in "abc"}
    seen = Streaks(merges=dict.fromkeys([("a", "b"), ("a", "c"), ("b", "c")], 2))
    _, merged = check_merges(losses, {}, seen, RULES)
    assert len(merged) == 1


def test_a_family_that_stays_small_ends_and_one_that_recovers_does_not():
    seen = Streaks()
    for live in ({"a": 2, "b": 2}, {"a": 2, "b": 5}):
        seen, ended = check_sizes(live, seen, RULES)
        assert ended == []
    seen, (ended,) = check_sizes({"a": 2, "b": 2}, seen, RULES)
    assert ended.family_id == "a"
    assert "the fallback serves them" in ended.reason
    assert seen.small == {"b": 1}


def test_a_device_moves_after_two_checks_in_a_row():
    offer = Offer("b", 0.4, 2.5)
    seen, moved = check_move("cam-1", "a", offer, Streaks(), RULES)
    assert moved is None
    seen, moved = check_move("cam-1", "a", offer, seen, RULES)
    assert isinstance(moved, Moved)
    assert (moved.family_id, seen.moves) == ("b", {})


@pytest.mark.parametrize(
    "between", [None, Offer("b", 0.29, 9.0), Offer("b", 0.9, 1.9), Offer("c", 0.9, 9.0), Offer("a", 0.9, 9.0)]
)
def test_anything_else_in_between_starts_again(between):
    offer = Offer("b", 0.4, 2.5)
    seen, _ = check_move("cam-1", "a", offer, Streaks(), RULES)
    seen, moved = check_move("cam-1", "a", between, seen, RULES)
    assert moved is None
    _, moved = check_move("cam-1", "a", offer, seen, RULES)
    assert moved is None


def test_devices_do_not_count_for_each_other():
    offer = Offer("b", 0.4, 2.5)
    seen, _ = check_move("cam-1", "a", offer, Streaks(), RULES)
    _, moved = check_move("cam-2", "a", offer, seen, RULES)
    assert moved is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"drifted": 21}, "21 of 100 devices drifted"),
        ({"drifted": 20}, None),
        ({"silhouettes": (0.60, 0.44)}, "separation fell from 0.60 to 0.44"),
        ({"silhouettes": (0.60, 0.46)}, None),
        ({"gate_changed": True}, "the gate decides differently"),
        ({"gate_changed": True, "drifted": 99, "rounds_since": 9}, None),
    ],
)
def test_all_families_are_looked_for_again_only_for_a_reason(changes, reason):
    plain = {"drifted": 0, "devices": 100, "silhouettes": None, "gate_changed": False, "rounds_since": 10}
    assert search_again(**{**plain, **changes}, rules=RULES) == reason


@given(st.lists(st.tuples(st.sampled_from("bc"), st.floats(0, 1), st.floats(0, 4)), max_size=30))
def test_a_move_always_has_its_checks_behind_it(offers):
    """Against an independent history: the last checks named the same family with enough gain."""
    seen, history = Streaks(), []
    for family_id, gain, z in offers:
        history.append((family_id, gain >= RULES.move_gain and z >= RULES.move_z))
        seen, moved = check_move("cam-1", "a", Offer(family_id, gain, z), seen, RULES)
        if moved is not None:
            assert history[-2:] == [(moved.family_id, True)] * 2
            history.clear()
