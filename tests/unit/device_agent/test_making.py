"""What a device makes for itself, and when."""

from dataclasses import replace

import pytest

from contract.messages import Assignment
from contract.model import ModelId
from device_agent.events import Facts, Job, RowsCounted
from device_agent.making import Due, covered, forget_missing_rungs, next_made, note_made, wanted_anchor

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


def test_rungs_whose_weights_are_gone_are_made_again():
    tuned, local = (ModelId(role=role, digest=c * 64) for role, c in (("fine-tuned", "7"), ("local", "8")))
    facts = replace(FACTS, rungs=(tuned, local), tuned_base=FALLBACK.digest, local_rows=400)
    assert forget_missing_rungs(facts, {tuned.digest, local.digest}) == facts
    lost = forget_missing_rungs(facts, {local.digest})
    assert (lost.rungs, lost.tuned_base, lost.local_rows) == ((local,), "", 400)
