"""The life of families through the machine: drift, questions about experts, merges, moves, ends; bad input."""

import numpy as np
import pytest

from contract.canonical import sha256_hex
from contract.features import N_FEATURES
from contract.messages import LossReport, ModelLoss
from contract.model import DEFAULT_SPEC
from gateway.events import Assign, DropHead, Head, SearchFinished
from gateway.families import Decide
from gateway.grouping import Group, Grouping, Scaling
from gateway.registry import Refused
from gateway.rounds import RefuseUpdate
from gateway.upkeep import AskLosses
from tests.unit.gateway.bench import DIM, E1, F0, F1, F3, Bench, families_of, kinds, with_families
from tests.unit.gateway.builders import signature, status, telemetry, update


def drifting(device, *, flows=1_000, alerts=0, features=("fwd_bytes",)):
    return telemetry(device).model_copy(update={"flows": flows, "alerts": alerts, "drifted_features": features})


def far(device, sequence):
    return signature(device, sequence=sequence, value=3.0)


def place(bench, device):
    decision = bench.memory.book.decisions[device]
    return decision.family_id, decision.kind


def test_a_search_that_changes_nothing_keeps_the_families_and_says_why():
    bench = with_families()
    effects = bench.machine.handle(SearchFinished(families_of(("a", "b", "c", "d")), 11, 0.45), bench.now)
    assert kinds(effects) == ["KeepFamilies"]
    assert "nothing calls for other families" in effects[0].reason
    assert set(bench.memory.book.families) == {"family-1", "family-2"}


def test_a_fifth_of_the_fleet_with_other_traffic_brings_new_families():
    bench = with_families()
    for device in ("a", "b"):
        bench.say(signature(device, sequence=2))
        bench.say(drifting(device))
    other = families_of(("a", "b", "d"), ("c", "e", "f"))
    assert "KeepFamilies" in kinds(bench.machine.handle(SearchFinished(other, 10, 0.5), bench.now)), "too soon"
    effects = bench.machine.handle(SearchFinished(other, 11, 0.5), bench.now)
    assert kinds(effects)[:2] == ["StoreGrouping", "ReplaceFamilies"]


# --- drift ---


def with_distant_families():
    """Two families: one where all means are 1, one where they are 3."""
    bench = with_families()
    ones, threes = (np.array([v] * N_FEATURES + [-2.0] * N_FEATURES) for v in (1.0, 3.0))
    scaling = Scaling(np.zeros(DIM), np.ones(DIM))
    groups = (
        Group(("a", "b", "c"), scaling.project(ones), 0.1),
        Group(("d", "e", "f"), scaling.project(threes), 0.1),
    )
    found = Grouping(True, groups, (), "found", {"gate": 0.5, "separation": 0.9}, scaling)
    bench.machine.handle(SearchFinished(found, 11, 0.1), 0.0)
    return bench


def test_a_device_whose_traffic_drifted_is_placed_anew_and_nobody_else():
    bench = with_distant_families()
    before = dict(bench.memory.book.decisions)
    assert "Decide" not in kinds(bench.say(far("a", 2))), "a new signature alone moves nobody"
    effects = bench.say(drifting("a"))
    (decide,) = [e for e in effects if isinstance(e, Decide)]
    assert (decide.decision.family_id, decide.decision.kind) == ("family-4", "drifted")
    assert "its traffic drifted (fwd_bytes); joined late: distance 0.00 to family-4" in decide.decision.reason
    assert [e.assignment.device_id for e in effects if isinstance(e, Assign)] == ["a"]
    changed = {d for d, decision in bench.memory.book.decisions.items() if decision != before[d]}
    assert changed == {"a"}
    assert "Decide" not in kinds(bench.say(drifting("a"))), "once for one signature"


def test_the_signature_may_come_after_the_word_of_drift():
    bench = with_distant_families()
    assert "Decide" not in kinds(bench.say(drifting("a")))
    assert "Decide" in kinds(bench.say(far("a", 2)))
    assert place(bench, "a") == ("family-4", "drifted")


@pytest.mark.parametrize("alerts", [60, 900])
def test_traffic_under_attack_is_no_drift(alerts):
    bench = with_distant_families()
    bench.say(far("a", 2))
    assert "Decide" not in kinds(bench.say(drifting("a", alerts=alerts)))
    assert "Decide" in kinds(bench.say(drifting("a", flows=2_000, alerts=alerts))), "the attack is over"


def test_a_device_that_drifted_to_nowhere_is_served_by_the_fallback():
    bench = with_distant_families()
    bench.say(signature("a", sequence=2, value=2.0))
    bench.say(drifting("a"))
    assert place(bench, "a") == (None, "drifted")


# --- questions about experts ---

EXPERTS = {"family-1": Head(E1, 20.0), "family-2": Head(F3, 20.0)}


def check_bench():
    """Two families with experts, and a check after every round."""
    bench = Bench(families={"check_every": 1})
    bench.join("a", "b", "c", "d", "e", "f")
    bench.finish(bench.open(), heads={"fallback": Head(F1, 20.0)})
    bench.machine.handle(SearchFinished(families_of(("a", "b", "c"), ("d", "e", "f")), 1), bench.now)
    return bench


def end_round(bench):
    living = {f: head for f, head in EXPERTS.items() if f in bench.memory.book.families}
    effects = bench.finish(bench.open(), heads=living)
    return effects, {e.request.device_id: e.request for e in effects if isinstance(e, AskLosses)}


def answer(request, own, other, *, z=5.0):
    losses = (
        ModelLoss(model=request.models[0], loss=own, gain=0.0, z=0.0),
        ModelLoss(model=request.models[1], loss=other, gain=(own - other) / own, z=z),
    )
    return LossReport(device_id=request.device_id, request=request.request, rows=120, reason="measured", losses=losses)


def test_members_are_asked_about_their_own_expert_and_the_near_ones():
    _, asked = end_round(check_bench())
    assert sorted(asked) == ["a", "b", "c", "d", "e", "f"]
    assert [m.digest for m in asked["a"].models] == [E1, F3]
    assert [m.digest for m in asked["d"].models] == [F3, E1]


def test_families_whose_experts_serve_each_other_merge_after_three_checks():
    bench = check_bench()
    for check in range(4):
        effects, asked = end_round(bench)
        merged = [e.decision for e in effects if isinstance(e, Decide) and e.decision.kind == "merged"]
        assert bool(merged) == (check == 3)
        if not merged:
            for request in asked.values():
                assert bench.say(answer(request, 0.50, 0.51, z=-0.5)) == []
    assert {d.device_id for d in merged} == {"d", "e", "f"}
    assert "serve each other's members" in merged[0].reason
    assert bench.memory.book.members() == {"family-1": frozenset("abcdef")}
    assert DropHead("family-2") in effects
    assert kinds(effects).index("ReplaceFamilies") < kinds(effects).index("Decide")
    assignments = {e.assignment.device_id: e.assignment for e in effects if isinstance(e, Assign)}
    assert assignments["d"].expert.digest == E1


def test_a_device_moves_to_the_expert_that_serves_it_better_after_two_checks():
    bench = check_bench()
    for check in range(3):
        effects, asked = end_round(bench)
        moved = [e.decision for e in effects if isinstance(e, Decide)]
        assert bool(moved) == (check == 2)
        for device, request in asked.items():
            bench.say(answer(request, 0.5, 0.2 if device == "a" else 0.9))
    assert [(d.device_id, d.family_id, d.kind) for d in moved] == [("a", "family-2", "moved")]
    assert "saves 60% of the loss" in moved[0].reason


def test_a_gain_that_luck_explains_moves_nobody():
    bench = check_bench()
    for _ in range(4):
        effects, asked = end_round(bench)
        assert "Decide" not in kinds(effects)
        for device, request in asked.items():
            bench.say(answer(request, 0.5, 0.2 if device == "a" else 0.9, z=1.9))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"request": 1}, "unasked"),
        ({"reason": "few-rows", "losses": ()}, "few-rows"),
        ({"losses": ()}, "other-models"),
    ],
)
def test_an_answer_that_is_off_is_counted_and_changes_nothing(changes, reason):
    bench = check_bench()
    _, asked = end_round(bench)
    message = answer(asked["a"], 0.5, 0.1).model_copy(update=changes)
    assert bench.say(message) == [Refused("a", "losses", reason)]


def test_a_family_whose_members_are_gone_for_three_rounds_ends():
    bench = check_bench()
    end_round(bench)
    bench.say(status("d", "lost"))
    for check in range(3):
        effects, _ = end_round(bench)
        assert ("ReplaceFamilies" in kinds(effects)) == (check == 2)
    assert place(bench, "e") == (None, "dissolved")
    assert "2 members there for 3 rounds, 3 are needed" in bench.memory.book.decisions["e"].reason
    assert DropHead("family-2") in effects


# --- private mode ---


def private_bench():
    bench = Bench(mode="private", clip_norm=2.0, noise_multiplier=0.5)
    bench.join("a", "b", "c")
    return bench


def test_private_tasks_carry_clip_and_noise_and_there_is_no_anchor():
    bench = private_bench()
    opened = bench.open()
    assert {(t.clip_norm, t.noise_multiplier) for t in opened.tasks} == {(2.0, 0.5)}
    effects = bench.finish(opened, heads={"fallback": Head(F1, 20.0)})
    assert bench.memory.anchor is None
    assert all(e.assignment.anchor is None for e in effects if isinstance(e, Assign))
    assert Bench(mode="robust").config.rounds.private is False


def test_private_noise_is_no_reason_to_refuse_an_update():
    """A noisy update is longer than any bound on honest ones, yet it has a bound of its own."""
    bench = private_bench()
    bench.open()
    noisy = np.random.default_rng(0).normal(0, 4.0, DEFAULT_SPEC.n_parameters).astype(np.float32)
    data = noisy.tobytes()
    (refused,) = bench.say(update("a", 1, delta=data, delta_digest=sha256_hex(data), base=F0))
    assert (type(refused), refused.reason) == (RefuseUpdate, "norm-bound")
    data = (noisy / 4.0).tobytes()
    assert "AcceptUpdate" in kinds(bench.say(update("a", 1, delta=data, delta_digest=sha256_hex(data), base=F0)))


# --- bad input ---


def state_of(bench):
    memory = bench.memory
    return (
        dict(memory.registry.devices),
        {d: v.tolist() for d, v in memory.registry.vectors.items()},
        dict(memory.book.decisions),
        dict(memory.book.families),
        dict(memory.heads),
        dict(memory.assignments),
        dict(memory.rounds.open_tasks),
    )


BAD = signature("a", sequence=9)
NAN = np.full(DEFAULT_SPEC.n_parameters, np.nan, dtype=np.float32).tobytes()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (BAD.model_copy(update={"mean": BAD.mean[:-2]}), "length"),
        (BAD.model_copy(update={"mean": np.full(N_FEATURES, np.nan, "<f2").tobytes()}), "not-finite"),
        (BAD.model_copy(update={"prototypes": {"sorcery": BAD.log_std}}), "unknown-class"),
        (BAD.model_copy(update={"class_rows": (1,) * 40}), "class-rows"),
        (BAD.model_copy(update={"sketch": bytes(64), "anchor": "a" * 16}), "sketch"),
        (signature("a", sequence=0), "old-sequence"),
        (signature("b", sequence=9), "foreign-device"),
    ],
)
def test_a_bad_signature_is_a_counted_refusal_and_changes_nothing_else(message, reason):
    bench = with_families()
    bench.open()
    before = state_of(bench)
    assert bench.say(message, "a") == [Refused("a", "signature", reason)]
    assert state_of(bench) == before


def test_an_update_of_nan_is_a_counted_refusal_and_the_round_goes_on():
    bench = with_families()
    bench.open()
    before = state_of(bench)
    (refused,) = bench.say(update("a", 2, delta=NAN, delta_digest=sha256_hex(NAN), base=F1))
    assert (type(refused), refused.device_id, refused.reason) == (RefuseUpdate, "a", "weights-not-finite")
    assert state_of(bench) == before
    assert "AcceptUpdate" in kinds(bench.say(update("b", 2, base=F1)))


def test_a_family_of_one_trains_no_expert_and_ends():
    """A search finds no group of one; one is what is left when the others go."""
    bench = with_families()
    for device in ("e", "f"):
        bench.say(status(device, "lost"))
    for check in range(3):
        opened = bench.open()
        targets = {t.device_id: [x.family_id for x in t.targets] for t in opened.tasks}
        assert targets["d"] == [None], "one device makes no expert"
        assert targets["a"] == [None, "family-1"]
        bench.finish(opened, heads={})
        assert place(bench, "d") == (("family-2", "member") if check < 2 else (None, "dissolved"))
    assert "1 members there for 3 rounds" in bench.memory.book.decisions["d"].reason
    assert place(bench, "a") == ("family-1", "member")
