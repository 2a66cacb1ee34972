"""What a device makes for itself, and when."""

from dataclasses import replace

import pytest

from contract.messages import Assignment
from contract.model import ModelId
from device_agent.events import RowsCounted
from device_agent.facts import Facts, Job
from device_agent.making import Due, covered, forget_missing_rungs, next_made, note_made, usable_rungs, wanted_anchor

FACTORY = ModelId(role="factory", digest="f" * 64)
FALLBACK = ModelId(role="fallback", digest="1" * 64)
ANCHOR = "9" * 64
ROWS = RowsCounted(300, 400, 120, baseline_open=False, attacks=40)
GIVEN = Assignment(device_id="a", version=4, family_id=None, reason="", fallback=FALLBACK, expert=None)
FACTS = Facts(assignment=GIVEN, active=FALLBACK)


def due(facts=FACTS, rows=ROWS, *, sketches=True):
    return next_made(facts, rows, factory=FACTORY, sketches=sketches)


def test_first_the_fine_tuned_model_then_the_local_one_then_nothing():
    assert due() == Due("fine-tuned", FALLBACK.digest)
    facts = note_made(FACTS, Job("j", FALLBACK.digest, kind="fine-tuned"), ROWS)
    assert due(facts) == Due("local", FACTORY.digest)
    facts = note_made(facts, Job("j", FACTORY.digest, kind="local"), ROWS)
    assert due(facts) is None
    assert due(facts, replace(ROWS, train=600)) == Due("local", FACTORY.digest)


@pytest.mark.parametrize(
    "facts",
    [
        Facts(),
        Facts(assignment=GIVEN),
        Facts(assignment=GIVEN, active=FACTORY),
        Facts(assignment=GIVEN.model_copy(update={"fallback": None}), active=FALLBACK),
    ],
)
def test_nothing_is_made_before_a_released_model_is_in_use(facts):
    assert due(facts) is None


def test_the_sketch_comes_first_and_once_per_anchor_and_never_in_private_mode():
    anchored = replace(FACTS, assignment=GIVEN.model_copy(update={"anchor": ANCHOR}))
    assert due(anchored) == Due("sketch", ANCHOR)
    assert due(anchored, sketches=False) == Due("fine-tuned", FALLBACK.digest)
    assert wanted_anchor(note_made(anchored, Job("j", ANCHOR, kind="sketch"), ROWS)) is None
    assert wanted_anchor(replace(anchored, private=True)) is None


def test_a_device_without_a_family_has_seen_all_that_counts():
    assert covered(FACTS, ROWS)
    member = replace(FACTS, assignment=GIVEN.model_copy(update={"classes": ("scan",)}))
    assert not covered(member, ROWS)
    assert covered(member, replace(ROWS, classes=frozenset({"scan", "benign"})))


UNSEEN = replace(FACTS, assignment=GIVEN.model_copy(update={"classes": ("scan",)}))
TUNED, LOCAL = (ModelId(role=role, digest=c * 64) for role, c in (("fine-tuned", "7"), ("local", "8")))


def test_a_member_that_has_not_seen_all_fine_tunes_over_its_own_classes_and_makes_no_model_from_the_start():
    assert due(UNSEEN) == Due("fine-tuned", FALLBACK.digest, own_classes=True)
    made = note_made(UNSEEN, Job("j", FALLBACK.digest, kind="fine-tuned", own_classes=True), ROWS)
    assert due(made) is None
    assert usable_rungs(replace(made, rungs=(TUNED, LOCAL)), ROWS) == (TUNED,)


def test_a_model_fine_tuned_over_all_classes_is_made_anew_once_the_family_knows_more():
    made = note_made(FACTS, Job("j", FALLBACK.digest, kind="fine-tuned"), ROWS)
    assert usable_rungs(replace(made, rungs=(TUNED, LOCAL)), ROWS) == (TUNED, LOCAL)
    known_more = replace(made, assignment=UNSEEN.assignment, rungs=(TUNED, LOCAL))
    assert usable_rungs(known_more, ROWS) == ()
    assert due(known_more) == Due("fine-tuned", FALLBACK.digest, own_classes=True)


def test_rungs_whose_weights_are_gone_are_made_again():
    facts = replace(FACTS, rungs=(TUNED, LOCAL), tuned_base=FALLBACK.digest, local_rows=400)
    assert forget_missing_rungs(facts, {TUNED.digest, LOCAL.digest}) == facts
    lost = forget_missing_rungs(facts, {LOCAL.digest})
    assert (lost.rungs, lost.tuned_base, lost.local_rows) == ((LOCAL,), "", 400)
