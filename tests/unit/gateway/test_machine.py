"""The machine as a whole: who is invited to what, what is published when, and starting over."""

import numpy as np
import pytest

from contract.canonical import sha256_hex
from contract.messages import ActiveModel, Epoch, EvaluationReport, MarkSet
from contract.model import DEFAULT_SPEC, ModelId
from gateway.events import (
    Announce,
    Assign,
    ClearRelease,
    DeviceConfined,
    DropHead,
    FindFamilies,
    Head,
    PublishRelease,
    Republish,
    RoundStored,
    SearchFinished,
    SessionUp,
    StoreReported,
)
from gateway.families import Decide
from gateway.grouping import Grouping, Scaling, make_group
from gateway.registry import DeviceChanged, Refused, SignatureStored
from gateway.rounds import CloseRound, RefuseUpdate, RoundMachine
from tests.unit.gateway.bench import DIM, E1, F0, F1, F2, F3, OFFLINE_AFTER_S, Bench, families_of, kinds, with_families
from tests.unit.gateway.builders import birth, signature, status, task, telemetry, update


def test_a_birth_gets_an_assignment_with_a_reason():
    (effect,) = [e for e in Bench().join("a") if isinstance(e, Assign)]
    assert effect.assignment.fallback == ModelId(role="fallback", digest=F0)
    assert effect.assignment.expert is None
    assert effect.assignment.version == 1
    assert "after round 1" in effect.assignment.reason


def test_a_decision_is_stored_before_its_assignment():
    names = kinds(Bench().say(birth("a")))
    assert names == ["DeviceChanged", "Decide", "Assign"]


def test_only_ready_devices_with_enough_rows_are_invited():
    bench = Bench()
    bench.join("a", "b", "c")
    bench.join("few", rows=199)
    bench.join("gone")
    bench.say(status("gone", "lost"))
    bench.say(birth("odd", spec_id="0" * 64))
    bench.say(status("odd"))
    bench.say(telemetry("odd"))
    assert [t.device_id for t in bench.open().tasks] == ["a", "b", "c"]


def test_no_round_below_min_devices():
    bench = Bench()
    bench.join("a", "b")
    assert bench.tick() == []


def test_warm_up_trains_the_fallback_alone():
    bench = Bench()
    bench.join("a", "b", "c")
    assert {tuple(t.role for t in task.targets) for task in bench.open().tasks} == {("fallback",)}


def test_tasks_carry_the_settings_and_a_seed_of_the_round():
    bench = Bench(local_epochs=7, learning_rate=0.02)
    bench.join("a", "b", "c")
    first = bench.open()
    bench.finish(first, heads={})
    second = bench.open()
    assert {(t.local_epochs, t.learning_rate) for t in first.tasks} == {(7, 0.02)}
    assert len({t.seed for t in first.tasks}) == 1
    assert first.tasks[0].seed != second.tasks[0].seed


def test_after_warm_up_families_are_looked_for_among_the_signatures():
    bench = Bench()
    bench.join("a", "b", "c")
    bench.join("d", sign=False)
    effects = bench.finish(bench.open(), heads={"fallback": Head(F1, 20.0)})
    assert kinds(effects) == ["PublishRelease", "FindFamilies"]
    (search,) = [e for e in effects if isinstance(e, FindFamilies)]
    assert sorted(search.vectors) == ["a", "b", "c"]


def test_devices_of_another_spec_take_no_part_in_the_search():
    bench = Bench()
    bench.join("a", "b", "c")
    bench.say(birth("odd", spec_id="0" * 64))
    bench.say(signature("odd"))
    (search,) = [e for e in bench.finish(bench.open(), heads={}) if isinstance(e, FindFamilies)]
    assert sorted(search.vectors) == ["a", "b", "c"]


def test_an_expert_starts_from_the_fallback_and_goes_on_from_itself():
    bench = with_families()
    opened = bench.open()
    target = opened.tasks[0].targets[1]
    assert (target.role, target.family_id, target.base) == ("expert", "family-1", F1)
    bench.finish(opened, heads={"fallback": Head(F2, 20.0), "family-1": Head(E1, 20.0)})
    by_device = {t.device_id: [x.base for x in t.targets] for t in bench.open().tasks}
    assert by_device["a"] == [F2, E1]
    assert by_device["d"] == [F2, F2]


def test_a_family_with_too_few_devices_present_does_not_train_in_vain():
    bench = with_families()
    bench.say(status("a", "lost"))
    targets = {t.device_id: [x.family_id for x in t.targets] for t in bench.open().tasks}
    assert targets["b"] == [None]
    assert targets["d"] == [None, "family-2"]


def test_a_shared_family_trains_no_expert():
    bench = Bench()
    bench.join("a", "b", "c")
    bench.finish(bench.open(), heads={})
    scaling = Scaling(np.zeros(DIM), np.ones(DIM))
    one = Grouping(False, (make_group(("a", "b", "c"), np.zeros((3, DIM))),), (), "none", {"gate": 0.0}, scaling)
    effects = bench.machine.handle(SearchFinished(one, 1), bench.now)
    assert [e.assignment.family_id for e in effects if isinstance(e, Assign)] == ["family-1"] * 3
    assert all(len(t.targets) == 1 for t in bench.open().tasks)


def test_new_models_are_published_before_they_are_assigned_and_old_ones_cleared_after():
    bench = with_families()
    effects = bench.finish(bench.open(), heads={"fallback": Head(F2, 20.0), "family-1": Head(E1, 20.0)})
    names = kinds(effects)
    assert names == ["PublishRelease"] * 2 + ["Assign"] * 6
    assert [e.digest for e in effects if isinstance(e, PublishRelease)] == sorted([F2, E1])
    experts = {e.assignment.device_id: e.assignment.expert for e in effects if isinstance(e, Assign)}
    assert experts["a"] == ModelId(role="expert", family_id="family-1", digest=E1)
    assert experts["d"] is None
    effects = bench.finish(bench.open(), heads={"fallback": Head(F3, 20.0)})
    assert kinds(effects) == ["PublishRelease"] + ["Assign"] * 6 + ["ClearRelease"]
    # The fallback that ended the warm-up stays: it is the anchor of the sketches.
    assert effects[-1] == ClearRelease(F2)
    assert bench.memory.anchor == F1
    assert all(e.assignment.anchor == F1 for e in effects if isinstance(e, Assign))


def test_versions_grow_only_with_changes():
    bench = with_families()
    before = {d: a.version for d, a in bench.memory.assignments.items()}
    bench.finish(bench.open(), heads={})
    assert {d: a.version for d, a in bench.memory.assignments.items()} == before
    bench.finish(bench.open(), heads={"fallback": Head(F2, 20.0)})
    assert all(a.version == before[d] + 1 for d, a in bench.memory.assignments.items())


def test_a_family_that_ends_takes_its_expert_along():
    bench = with_families()
    bench.finish(bench.open(), heads={"family-1": Head(E1, 20.0)})
    effects = bench.machine.handle(SearchFinished(families_of(("a", "b", "c", "d")), 11, 0.3), bench.now)
    assert DropHead("family-1") in effects
    assert ClearRelease(E1) in effects
    assert all(e.assignment.expert is None for e in effects if isinstance(e, Assign))


def test_a_session_republishes_everything_and_takes_back_old_tasks():
    bench = with_families()
    bench.finish(bench.open(), heads={"family-1": Head(E1, 20.0)})
    bench.say(status("f", "lost"))
    opened = bench.open()
    announce, *releases, republish = bench.machine.handle(SessionUp(), bench.now)
    assert announce == Announce()
    assert {e.digest for e in releases} == {F1, E1}
    assert isinstance(republish, Republish)
    assert set(republish.tasks) == set(opened.tasks)
    assert republish.without_task == ("f",)
    assert {a.device_id for a in republish.assignments} == set("abcdef")


def test_the_norm_bound_grows_with_the_base():
    """Ten times the base's norm of 20 is 200: 300 is too long, 100 is not."""
    bench = Bench()
    bench.join("a", "b", "c")
    bench.open()
    length = np.sqrt(DEFAULT_SPEC.n_parameters)
    for norm, reason in ((300.0, "norm-bound"), (100.0, "wrong-base")):
        data = np.full(DEFAULT_SPEC.n_parameters, norm / length, dtype=np.float32).tobytes()
        base = F0 if reason == "norm-bound" else "9" * 64
        (effect,) = bench.say(update("a", 1, delta=data, delta_digest=sha256_hex(data), base=base))
        assert effect == RefuseUpdate("a", "round-000001-a-fallback", reason)
    ok = np.full(DEFAULT_SPEC.n_parameters, 100.0 / length, dtype=np.float32).tobytes()
    effects = bench.say(update("a", 1, delta=ok, delta_digest=sha256_hex(ok), base=F0))
    assert kinds(effects) == ["AcceptUpdate"]


@pytest.mark.parametrize("message", [birth("b"), status("b"), telemetry("b"), signature("b"), update("b", 1)])
def test_nobody_speaks_for_another(message):
    (effect,) = Bench().say(message, "a")
    assert isinstance(effect, Refused)
    assert effect.reason == "foreign-device"


def test_a_message_that_is_not_for_the_gateway_is_refused():
    message = MarkSet(run_id="r", device_id="a")
    assert Bench().say(message) == [Refused("a", "markset", "unexpected")]


def test_reports_are_stored_even_from_a_device_without_birth():
    bench = Bench()
    model = ModelId(role="fallback", digest=F0)
    active = ActiveModel(device_id="a", assignment_version=1, active=model, reason="only-one", threshold=0.5)
    report = EvaluationReport(device_id="a", run_id="r", scores=(), active=model, exam_rows=0, exam_benign_s=0.0)
    assert kinds(bench.say(active)) == ["DeviceChanged", "StoreReported"]
    assert bench.say(report) == [StoreReported(report)]


def test_a_start_resumes_the_round_and_renews_assignments_that_are_out_of_date():
    """The last process died after the results were stored and before the assignments were."""
    old = with_families()
    bench = Bench(rounds=lambda rules: RoundMachine(rules, last_number=7))
    bench.memory.assignments.update(old.memory.assignments)
    bench.memory.book.decisions.update(old.memory.book.decisions)
    bench.memory.book.families.update(old.memory.book.families)
    bench.memory.heads["fallback"] = Head(F2, 20.0)
    effects = bench.machine.start([task("a", 7)], [], 100.0)
    assert {e.assignment.fallback.digest for e in effects if isinstance(e, Assign)} == {F2}
    bench.now = 100.0 + bench.config.rounds.deadline_s
    (close,) = [e for e in bench.tick() if isinstance(e, CloseRound)]
    assert close.number == 7


def test_silent_devices_are_noticed_by_the_tick():
    bench = Bench()
    bench.join("a")
    bench.now = OFFLINE_AFTER_S + 1.0
    (effect,) = bench.tick()
    assert isinstance(effect, DeviceChanged)
    assert not effect.device.online


def test_a_late_signature_places_its_device():
    bench = with_families()
    bench.join("g", sign=False)
    effects = bench.say(signature("g"))
    assert isinstance(effects[0], SignatureStored)
    (decide,) = [e for e in effects if isinstance(e, Decide)]
    assert decide.decision.kind in {"late-joiner", "fits-none"}


def test_a_device_in_quarantine_is_neither_waited_for_nor_invited_until_it_is_over():
    bench = Bench()
    bench.join("a", "b", "c", "d")
    opened = bench.open()
    assert {t.device_id for t in opened.tasks} == {"a", "b", "c", "d"}
    for device in "abc":
        effects = bench.say(update(device, 1, base=F0))
    assert not any(isinstance(e, CloseRound) for e in effects)
    effects = bench.machine.handle(DeviceConfined("d", 300.0), bench.now)
    assert any(isinstance(e, CloseRound) for e in effects)
    bench.machine.handle(RoundStored(opened.number, (), {}), bench.now)
    bench.now = 299.0
    opened = bench.open()
    assert {t.device_id for t in opened.tasks} == {"a", "b", "c"}
    bench.finish(opened, heads={})
    bench.now = 1_000.0
    assert {t.device_id for t in bench.open().tasks} == {"a", "b", "c", "d"}


def test_assignments_carry_the_epoch_and_a_new_one_renews_them_all():
    bench = Bench()
    bench.join("a")
    old = bench.memory.assignments["a"]
    assert old.epoch is None
    bench.memory.epoch = Epoch(number=5, key_id="0" * 16, signature="0" * 128)
    (assign,) = [e for e in bench.machine.start((), (), 0.0) if isinstance(e, Assign)]
    assert (assign.assignment.epoch.number, assign.assignment.version) == (5, old.version + 1)
