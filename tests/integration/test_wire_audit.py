"""The auditor of the fault runs finds every damage that is planted, and nothing in sound evidence."""

import pytest

from tests.integration.wire_audit import (
    PLANTED,
    Active,
    Assigned,
    Evidence,
    Result,
    Round,
    Sent,
    Stored,
    Word,
    audit,
    plant_each,
)


def sound():
    keys = {d: f"round-000001-{d}-fallback" for d in ("cam-1", "cam-2")}
    model = Assigned(2, frozenset({"b" * 64}))
    return Evidence(
        heard={key: Sent(device, "a" * 64, 500, "c" * 64) for device, key in keys.items()},
        receipts=[Word(device, key, accepted=True) for device, key in keys.items()],
        told=dict.fromkeys(keys, model),
        active=dict.fromkeys(keys, Active(2, "b" * 64)),
        trained=set(keys.values()),
        stored=[Stored(key, 1, device, "a" * 64, 500) for device, key in keys.items()],
        rounds=[Round(1, "closed", "complete", 100.0, 101.0)],
        results=[Result(1, "fallback", tuple(keys), 2.0)],
        invited={(1, device) for device in keys},
        assignments=dict.fromkeys(keys, model),
    )


def test_sound_evidence_has_no_violations():
    assert audit(sound(), rounds=1, longest_round_s=30.0) == []


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_damage_is_found(name):
    assert plant_each(sound(), rounds=1, longest_round_s=30.0)[name]


def test_an_update_that_waits_or_was_refused_is_not_lost():
    evidence = sound()
    row = evidence.stored.pop()
    evidence.receipts = [word for word in evidence.receipts if word.key != row.key]
    evidence.results = [Result(1, "fallback", ("cam-1",), 1.0)]
    assert audit(evidence, rounds=1, longest_round_s=30.0)
    evidence.waiting = {row.key}
    assert audit(evidence, rounds=1, longest_round_s=30.0) == []
    evidence.waiting = set()
    evidence.receipts.append(Word(row.device, row.key, accepted=False))
    assert audit(evidence, rounds=1, longest_round_s=30.0) == []
