"""The agent core, scene by scene; the property test plays them in every order."""

from dataclasses import replace

import pytest

from contract.messages import (
    Assignment,
    Epoch,
    EvaluationRequest,
    GatewayState,
    MarkSet,
    Receipt,
    RoundTask,
    RunCommand,
    TrainTarget,
    Verdict,
)
from contract.model import DEFAULT_SPEC, ModelId, ReleaseManifest
from device_agent import effects as f
from device_agent import events as e
from device_agent import facts as k
from device_agent.machine import AgentMachine, MachineSettings
from device_agent.rounds import LOCAL_TRAINING_S

ME, SPEC = "cam-1", DEFAULT_SPEC.spec_id
FACTORY = ModelId(role="factory", digest="f" * 64)
FALLBACK = ModelId(role="fallback", digest="1" * 64)
EXPERT = ModelId(role="expert", family_id="family-1", digest="2" * 64)


def machine(facts=None, *, held=(), waiting=(), **settings):
    models = {FACTORY.digest: FACTORY} | {m.digest: m for m in held}
    made = MachineSettings(ME, SPEC, FACTORY, **{"accept_marks": True, "min_benign_rows": 100} | settings)
    return AgentMachine(made, facts or k.Facts(), held=models, waiting_updates=frozenset(waiting))


def task(number=1, base=FACTORY, **changes):
    made = RoundTask(
        round_id=f"round-{number:06d}",
        round_number=number,
        device_id=ME,
        spec_id=SPEC,
        targets=(TrainTarget(role="fallback", base=base.digest),),
        local_epochs=1,
        learning_rate=0.1,
        proximal_mu=0.0,
        recon_weight=1.0,
        seed=1,
        deadline_s=60.0,
    )
    return made.model_copy(update=changes)


def assignment(version=1, fallback=FALLBACK, expert=None, **changes):
    family = "family-1" if expert else None
    made = Assignment(device_id=ME, version=version, family_id=family, reason="test", fallback=fallback, expert=expert)
    return made.model_copy(update=changes)


def release(model):
    manifest = ReleaseManifest(
        weights_digest=model.digest,
        spec_id=SPEC,
        n_parameters=DEFAULT_SPEC.n_parameters,
        role=model.role,
        family_id=model.family_id,
        round_number=1,
        parent=None,
    )
    return e.ReleaseReceived(model.digest, manifest)


def seen(mode="robust", *, session="g-1"):
    return e.GatewaySeen(
        GatewayState(online=True, session=session, contract_version="1.0", gateway_version="0", mode=mode)
    )


def replace_digest(model, character):
    return model.model_copy(update={"digest": character * 64})


def kinds(effects):
    return [type(effect).__name__ for effect in effects]


def the(kind, effects):
    found = [effect for effect in effects if isinstance(effect, kind)]
    assert len(found) == 1, effects
    return found[0]


def test_a_task_whose_base_is_held_starts_at_once_with_the_time_that_is_left():
    start = the(f.StartTraining, machine().handle(e.TaskReceived(task()), 10.0))
    assert start.job.base == FACTORY.digest
    assert start.seconds_left == 60.0


def test_a_task_whose_base_is_missing_fetches_it_first():
    core = machine()
    effects = core.handle(e.TaskReceived(task(base=FALLBACK)), 0.0)
    assert f.SubscribeModel(FALLBACK.digest) in effects
    assert "StartTraining" not in kinds(effects)
    effects = core.handle(release(FALLBACK), 7.0)
    assert kinds(effects)[:2] == ["HoldModel", "StartTraining"]
    assert the(f.StartTraining, effects).seconds_left == 53.0
    assert f.UnsubscribeModel(FALLBACK.digest) in effects


def test_two_targets_are_trained_one_after_the_other_and_the_task_is_remembered():
    targets = (
        TrainTarget(role="fallback", base=FACTORY.digest),
        TrainTarget(role="expert", family_id="family-1", base=FACTORY.digest),
    )
    core = machine()
    first = the(f.StartTraining, core.handle(e.TaskReceived(task(targets=targets)), 0.0)).job
    effects = core.handle(e.TrainingFinished(first.key), 1.0)
    assert kinds(effects)[:2] == ["SendUpdate", "StartTraining"]
    second = the(f.StartTraining, effects).job
    effects = core.handle(e.TrainingFinished(second.key), 2.0)
    assert the(f.SendUpdate, effects).job.update_id == f"round-000001-{ME}-expert"
    assert len(the(f.SaveFacts, effects).facts.trained) == 1


def test_the_same_task_again_sends_the_waiting_update_again_and_nothing_else():
    core = machine()
    job = the(f.StartTraining, core.handle(e.TaskReceived(task()), 0.0)).job
    assert core.handle(e.TaskReceived(task()), 0.5) == []
    core.handle(e.TrainingFinished(job.key), 1.0)
    assert core.handle(e.TaskReceived(task()), 2.0) == [f.ResendUpdate(job.update_id)]
    core.handle(e.ReceiptReceived(Receipt(device_id=ME, key=job.update_id, accepted=True, reason="stored")), 3.0)
    assert core.handle(e.TaskReceived(task()), 4.0) == []


def test_the_same_round_number_with_another_base_is_another_task():
    core = machine()
    job = the(f.StartTraining, core.handle(e.TaskReceived(task()), 0.0)).job
    core.handle(e.TrainingFinished(job.key), 1.0)
    core.handle(e.TaskReceived(task(base=FALLBACK)), 2.0)
    assert the(f.StartTraining, core.handle(release(FALLBACK), 3.0)).job.base == FALLBACK.digest


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"device_id": "cam-2"}, "task-other-device"), ({"spec_id": "0" * 64}, "task-spec")],
)
def test_a_task_that_is_not_ours_is_refused(change, reason):
    assert machine().handle(e.TaskReceived(task(**change)), 0.0)[0] == f.Refuse(reason)


def test_an_older_round_does_not_displace_a_newer_one():
    core = machine()
    core.handle(e.TaskReceived(task(5)), 0.0)
    assert core.handle(e.TaskReceived(task(4)), 1.0) == [f.Refuse("task-older")]


@pytest.mark.parametrize("end", ["cleared", "superseded", "deadline"])
def test_a_task_that_is_over_cancels_its_job(end):
    core = machine()
    job = the(f.StartTraining, core.handle(e.TaskReceived(task(1)), 0.0)).job
    if end == "cleared":
        effects = core.handle(e.TaskCleared(), 1.0)
    elif end == "superseded":
        effects = core.handle(e.TaskReceived(task(2)), 1.0)
        assert the(f.StartTraining, effects).job.task.round_number == 2
    else:
        assert core.handle(e.Ticked(), 59.9) == []
        effects = core.handle(e.Ticked(), 60.0)
        assert f.Refuse("task-deadline", "own") in effects
    assert f.CancelTraining(job.key) in effects
    assert f.Refuse("training-late", "own") in core.handle(e.TrainingFinished(job.key), 61.0)


def test_a_failed_training_is_counted_and_the_task_may_come_again():
    core = machine()
    job = the(f.StartTraining, core.handle(e.TaskReceived(task()), 0.0)).job
    effects = core.handle(e.TrainingFailed(job.key, "training-worker-died"), 1.0)
    assert f.Refuse("training-worker-died", "own") in effects
    assert f.DeclineTask("round-000001", "training-worker-died") in effects
    assert "StartTraining" in kinds(core.handle(e.TaskReceived(task()), 2.0))


def test_a_task_is_declined_once_when_its_last_target_is_over_and_one_failed():
    """The other target's update goes out all the same, before the decline."""
    core = machine(held=(FALLBACK,))
    targets = (
        TrainTarget(role="fallback", base=FACTORY.digest),
        TrainTarget(role="expert", family_id="family-1", base=FALLBACK.digest),
    )
    first = the(f.StartTraining, core.handle(e.TaskReceived(task(targets=targets)), 0.0)).job
    effects = core.handle(e.TrainingFailed(first.key, "training-no-rows"), 1.0)
    assert "DeclineTask" not in kinds(effects)
    effects = core.handle(e.TrainingFinished(the(f.StartTraining, effects).job.key), 2.0)
    assert kinds(effects).index("SendUpdate") < kinds(effects).index("DeclineTask")
    assert the(f.DeclineTask, effects).reason == "training-no-rows"


@pytest.mark.parametrize("known_before", [True, False])
def test_a_task_from_a_base_that_cannot_be_trusted_is_declined(known_before):
    """Whether the refusal of the release comes before the task or after it."""
    core = machine()
    if known_before:
        core.handle(e.AssignmentReceived(assignment()), 0.0)
        core.handle(e.ReleaseReceived(FALLBACK.digest, None, "signature"), 1.0)
        effects = core.handle(e.TaskReceived(task(base=FALLBACK)), 2.0)
    else:
        assert "DeclineTask" not in kinds(core.handle(e.TaskReceived(task(base=FALLBACK)), 1.0))
        effects = core.handle(e.ReleaseReceived(FALLBACK.digest, None, "signature"), 2.0)
    assert the(f.DeclineTask, effects) == f.DeclineTask("round-000001", "base-refused")
    assert core.desk.task is None


def test_expert_and_fallback_are_fetched_compared_and_swapped_after_the_check():
    core = machine()
    effects = core.handle(e.AssignmentReceived(assignment(expert=EXPERT)), 0.0)
    assert {x.digest for x in effects if isinstance(x, f.SubscribeModel)} == {FALLBACK.digest, EXPERT.digest}
    assert "ChooseModel" not in kinds(core.handle(release(FALLBACK), 1.0))
    choose = the(f.ChooseModel, core.handle(release(EXPERT), 2.0))
    assert (choose.fallback, choose.expert) == (FALLBACK, EXPERT)
    assert core.active == FACTORY
    effects = core.handle(e.ModelChosen(choose.request, EXPERT), 3.0)
    assert the(f.SwapModel, effects) == f.SwapModel(EXPERT, choose.request, 1)
    assert the(f.SaveFacts, effects).facts.active == EXPERT


def test_a_refused_release_leaves_the_other_one_to_serve():
    core = machine()
    core.handle(e.AssignmentReceived(assignment(expert=EXPERT)), 0.0)
    assert f.Refuse("trust-unknown-key") in core.handle(
        e.ReleaseReceived(EXPERT.digest, None, "trust-unknown-key"), 1.0
    )
    assert core.active == FACTORY
    choose = the(f.ChooseModel, core.handle(release(FALLBACK), 2.0))
    assert (choose.fallback, choose.expert) == (FALLBACK, None)
    core.handle(e.ModelChosen(choose.request, FALLBACK), 3.0)
    choose = the(f.ChooseModel, core.handle(release(EXPERT), 4.0))
    assert choose.expert == EXPERT, "a good copy that comes later is taken"


def test_a_candidate_that_fails_its_self_check_is_left_out():
    core = machine(held=[FALLBACK, EXPERT])
    choose = the(f.ChooseModel, core.handle(e.AssignmentReceived(assignment(expert=EXPERT)), 0.0))
    effects = core.handle(e.ModelUnfit(choose.request, EXPERT.digest, "self-check-not-finite"), 1.0)
    assert f.Refuse("self-check-not-finite", "own") in effects
    assert the(f.ChooseModel, effects).expert is None
    assert core.active == FACTORY


def test_an_expert_of_another_family_is_not_used():
    core = machine(held=[FALLBACK, EXPERT])
    wrong = EXPERT.model_copy(update={"family_id": "family-2"})
    effects = core.handle(e.AssignmentReceived(assignment(expert=wrong)), 0.0)
    assert f.Refuse("release-other-family") in effects
    assert the(f.ChooseModel, effects).expert is None


def test_a_newer_assignment_voids_a_choice_that_is_under_way():
    core = machine(held=[FALLBACK])
    choose = the(f.ChooseModel, core.handle(e.AssignmentReceived(assignment()), 0.0))
    core.handle(e.AssignmentReceived(assignment(2, fallback=EXPERT.model_copy(update={"digest": "9" * 64}))), 1.0)
    assert core.handle(e.ModelChosen(choose.request, FALLBACK), 2.0) == [f.Refuse("choice-late", "own")]
    assert core.active == FACTORY


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device_id": "cam-2"}, "assignment-other-device"),
        ({"version": 2}, "assignment-older"),
        ({"version": 3, "reason": "other"}, "assignment-same-version"),
    ],
)
def test_assignments_that_are_refused(change, reason):
    core = machine(held=[FALLBACK])
    core.handle(e.AssignmentReceived(assignment(3)), 0.0)
    assert core.handle(
        e.AssignmentReceived(
            assignment(3, **change) if "version" not in change else assignment(3).model_copy(update=change)
        ),
        1.0,
    ) == [f.Refuse(reason)]


def of_epoch(number, version):
    epoch = Epoch(number=number, key_id="0" * 16, signature="0" * 128)
    return assignment(version).model_copy(update={"epoch": epoch, "reason": f"epoch {number}"})


def test_a_gateway_that_lost_its_store_is_followed_although_its_versions_start_over():
    core = machine(held=[FALLBACK])
    core.handle(e.AssignmentReceived(of_epoch(100, 40)), 0.0)
    assert f.Refuse("assignment-older") in core.handle(e.AssignmentReceived(of_epoch(100, 39)), 1.0)
    the(f.ChooseModel, core.handle(e.AssignmentReceived(of_epoch(200, 1)), 2.0))
    assert core.facts.assignment.version == 1
    # What the old store said is over, and so is what a gateway without epochs says.
    assert f.Refuse("assignment-older-epoch") in core.handle(e.AssignmentReceived(of_epoch(100, 41)), 3.0)
    assert f.Refuse("assignment-older-epoch") in core.handle(e.AssignmentReceived(assignment(99)), 4.0)


def test_the_same_assignment_again_does_nothing():
    core = machine(held=[FALLBACK])
    core.handle(e.AssignmentReceived(assignment(3)), 0.0)
    assert core.handle(e.AssignmentReceived(assignment(3)), 1.0) == []


def test_models_that_nobody_wants_any_more_are_dropped_but_not_the_one_in_use():
    core = machine(held=[FALLBACK, EXPERT], facts=k.Facts(active=FALLBACK))
    effects = core.handle(e.Ticked(), 0.0)
    assert f.DropModel(EXPERT.digest) in effects
    assert set(core.held) == {FACTORY.digest, FALLBACK.digest}


def test_enough_baseline_rows_train_the_devices_own_model_once():
    core = machine()
    assert "StartTraining" not in kinds(core.handle(e.RowsCounted(150, 150, 40, baseline_open=True), 0.0))
    start = the(f.StartTraining, core.handle(e.RowsCounted(150, 150, 40, baseline_open=False), 1.0))
    assert start.job.task is None
    assert start.seconds_left == LOCAL_TRAINING_S
    adopt = the(f.AdoptLocal, core.handle(e.TrainingFinished(start.job.key), 2.0))
    own = ModelId(role="factory", digest="a" * 64)
    assert the(f.SwapModel, core.handle(e.ModelChosen(adopt.request, own), 3.0)).active == own
    assert "StartTraining" not in kinds(core.handle(e.RowsCounted(900, 900, 40, baseline_open=False), 4.0))


def test_plenty_of_rows_do_not_wait_for_the_end_of_the_baseline_window():
    core = machine()
    assert "StartTraining" in kinds(core.handle(e.RowsCounted(500, 500, 90, baseline_open=True), 0.0))


def test_a_round_goes_before_the_own_training_which_is_taken_up_again():
    core = machine()
    own = the(f.StartTraining, core.handle(e.RowsCounted(150, 150, 40, baseline_open=False), 0.0)).job
    effects = core.handle(e.TaskReceived(task()), 1.0)
    assert kinds(effects)[:2] == ["CancelTraining", "StartTraining"]
    assert effects[0] == f.CancelTraining(own.key)
    round_job = the(f.StartTraining, effects).job
    again = the(f.StartTraining, core.handle(e.TrainingFinished(round_job.key), 2.0)).job
    assert again.task is None


def test_the_threshold_is_made_anew_when_the_validation_rows_have_grown_by_half():
    core = machine(held=[FALLBACK])
    choose = the(f.ChooseModel, core.handle(e.AssignmentReceived(assignment()), 0.0))
    core.handle(e.RowsCounted(100, 100, 40, baseline_open=False), 1.0)
    core.handle(e.ModelChosen(choose.request, FALLBACK), 2.0)
    assert "ChooseModel" not in kinds(core.handle(e.RowsCounted(100, 100, 59, baseline_open=False), 3.0))
    assert "ChooseModel" in kinds(core.handle(e.RowsCounted(100, 100, 60, baseline_open=False), 4.0))


def test_a_signature_goes_out_when_there_are_rows_and_again_when_they_grew():
    core = machine(facts=k.Facts(signature_sequence=7, locally_trained=True))
    rows = e.RowsCounted(100, 120, 40, baseline_open=False)
    assert "SendSignature" not in kinds(core.handle(rows, 0.0)), "nobody would hear it"
    assert "SendSignature" not in kinds(core.handle(e.Connected(), 1.0)), "the gateway's mode is not known yet"
    assert f.SendSignature(8) in core.handle(seen(), 1.0)
    assert "SendSignature" not in kinds(core.handle(replace(rows, benign=149, train=179), 2.0))
    assert f.SendSignature(9) in core.handle(replace(rows, benign=150, train=179), 3.0)


def test_in_private_mode_a_signature_tells_moments_alone():
    core = machine(facts=k.Facts(locally_trained=True))
    core.handle(e.RowsCounted(100, 120, 40, baseline_open=False), 0.0)
    core.handle(e.Connected(), 1.0)
    assert f.SendSignature(1, moments_only=True) in core.handle(seen("private"), 1.0)


def test_drift_is_told_with_a_new_signature():
    core = machine(facts=k.Facts(locally_trained=True))
    core.handle(e.RowsCounted(100, 120, 40, baseline_open=False), 0.0)
    assert "SendSignature" not in kinds(core.handle(e.TrafficDrifted(), 0.5)), "nobody would hear it"
    core.handle(e.Connected(), 1.0)
    core.handle(seen(), 1.0)
    assert f.SendSignature(2) in core.handle(e.TrafficDrifted(), 2.0)


def test_a_signature_with_noise_is_made_again_only_when_rows_have_grown_or_drifted():
    core = machine(facts=k.Facts(locally_trained=True, signed_rows=2_000, signature_sequence=1), noisy=True)
    core.handle(e.Connected(), 0.0)
    core.handle(seen(), 0.0)
    assert "SendSignature" not in kinds(core.handle(e.RowsCounted(2_500, 2_500, 40, baseline_open=False), 1.0))
    assert "SendSignature" in kinds(core.handle(e.RowsCounted(3_000, 3_000, 40, baseline_open=False), 2.0))
    assert "SendSignature" in kinds(core.handle(e.TrafficDrifted(), 3.0))


# --- the ladder ---

JUDGED = e.RowsCounted(300, 400, 120, baseline_open=False, attacks=40)
TUNED = ModelId(role="fine-tuned", family_id="family-1", digest="7" * 64)
LOCAL = ModelId(role="local", family_id="family-1", digest="8" * 64)


def in_family(rows=JUDGED):
    """Return a core that uses its expert."""
    core = machine(k.Facts(locally_trained=True), held=[FALLBACK, EXPERT])
    choose = the(f.ChooseModel, core.handle(e.AssignmentReceived(assignment(expert=EXPERT)), 0.0))
    core.handle(rows, 0.5)
    return core, core.handle(e.ModelChosen(choose.request, EXPERT), 1.0)


def climb(core, effects):
    """Let the fine-tuned and the local model be made; return the effects of the last."""
    tuned = the(f.StartTraining, effects).job
    effects = core.handle(e.TrainingFinished(tuned.key), 2.0)
    assert the(f.KeepRung, effects) == f.KeepRung(tuned)
    local = the(f.StartTraining, effects).job
    core.handle(e.RungMade(TUNED.model_copy(update={"family_id": None})), 2.0)
    core.handle(e.TrainingFinished(local.key), 3.0)
    assert (tuned.kind, tuned.base, local.kind, local.base) == (
        "fine-tuned",
        EXPERT.digest,
        "local",
        FACTORY.digest,
    )
    return core.handle(e.RungMade(LOCAL.model_copy(update={"family_id": None})), 4.0)


def test_an_idle_device_makes_the_upper_rungs_and_compares_all_four():
    core, effects = in_family()
    choose = the(f.ChooseModel, climb(core, effects))
    assert (choose.expert, choose.fallback, choose.rungs) == (EXPERT, FALLBACK, (TUNED, LOCAL))
    assert (choose.step, choose.rounds) == ("expert", 2), "where a device starts is not kept"
    swap = the(f.SwapModel, core.handle(e.ModelChosen(choose.request, LOCAL), 5.0))
    assert swap.active == LOCAL
    assert [m.digest for m in core.facts.rungs] == [TUNED.digest, LOCAL.digest]


@pytest.mark.parametrize("rows", [replace(JUDGED, validation=99), replace(JUDGED, attacks=4)])
def test_rungs_that_nothing_could_judge_are_not_made(rows):
    _, effects = in_family(rows)
    assert "StartTraining" not in kinds(effects)


@pytest.mark.parametrize(("seen", "own_classes"), [({"scan"}, True), ({"scan", "dos_flood", "benign"}, False)])
def test_a_member_fine_tunes_over_its_own_classes_until_it_has_seen_what_its_family_has(seen, own_classes):
    core, _ = in_family(replace(JUDGED, attacks=0, classes=frozenset(seen)))
    known = assignment(2, expert=EXPERT, classes=("dos_flood", "scan"))
    choose = the(f.ChooseModel, core.handle(e.AssignmentReceived(known), 1.0))
    core.handle(e.ModelChosen(choose.request, EXPERT), 1.0)
    effects = core.handle(replace(JUDGED, classes=frozenset(seen)), 2.0)
    job = the(f.StartTraining, effects).job
    assert (job.kind, job.own_classes) == ("fine-tuned", own_classes)


def test_rungs_are_no_candidates_once_the_family_knows_more():
    core, effects = in_family()
    core.handle(e.ModelChosen(the(f.ChooseModel, climb(core, effects)).request, LOCAL), 5.0)
    wiser = assignment(2, expert=EXPERT, classes=("scan",))
    assert the(f.ChooseModel, core.handle(e.AssignmentReceived(wiser), 6.0)).rungs == ()


def test_a_round_goes_before_a_rung():
    core, effects = in_family()
    rung = the(f.StartTraining, effects).job
    effects = core.handle(e.TaskReceived(task()), 2.0)
    assert effects[0] == f.CancelTraining(rung.key)
    again = the(f.StartTraining, core.handle(e.TrainingFinished(the(f.StartTraining, effects).job.key), 3.0)).job
    assert again.kind == "fine-tuned"


def test_a_rung_that_is_not_fit_is_left_out_and_not_made_again_at_once():
    core, effects = in_family()
    tuned = the(f.StartTraining, effects).job
    local = the(f.StartTraining, core.handle(e.TrainingFinished(tuned.key), 2.0)).job
    core.handle(e.RungMade(None), 2.0)
    core.handle(e.TrainingFinished(local.key), 3.0)
    effects = core.handle(e.RungMade(LOCAL), 4.0)
    assert the(f.ChooseModel, effects).rungs == (LOCAL,)
    assert "StartTraining" not in kinds(effects)


def test_the_rung_in_use_and_its_age_are_restored():
    core, effects = in_family()
    choose = the(f.ChooseModel, climb(core, effects))
    core.handle(e.ModelChosen(choose.request, LOCAL), 5.0)
    again = machine(core.facts, held=[FALLBACK, EXPERT, TUNED, LOCAL])
    assert again.active == LOCAL
    choose = the(f.ChooseModel, again.handle(JUDGED, 0.0))
    assert (choose.step, choose.rounds, choose.rungs) == ("local", 0, (TUNED, LOCAL))
    newer = assignment(3, expert=EXPERT)
    assert the(f.ChooseModel, again.handle(e.AssignmentReceived(newer), 1.0)).rounds == 2


def test_a_fine_tuned_model_is_made_anew_two_assignments_later():
    core, effects = in_family()
    core.handle(e.ModelChosen(the(f.ChooseModel, climb(core, effects)).request, TUNED), 5.0)
    newer = [replace_digest(EXPERT, c) for c in "34"]
    for version, expert in enumerate(newer, 2):
        core.handle(e.AssignmentReceived(assignment(version, expert=expert)), 6.0)
        effects = core.handle(release(expert), 6.0)
        effects += core.handle(e.ModelChosen(the(f.ChooseModel, effects).request, TUNED), 6.0)
        assert ("StartTraining" in kinds(effects)) == (version == 3)
    assert the(f.StartTraining, effects).job.base == newer[1].digest


# --- the sketch ---


def test_the_anchor_is_fetched_trained_at_once_and_dropped():
    core = machine(k.Facts(locally_trained=True, active=FALLBACK), held=[FALLBACK])
    core.handle(e.Connected(), 0.0)
    core.handle(seen(), 0.0)
    core.handle(e.RowsCounted(150, 150, 40, baseline_open=False), 0.0)
    anchor = replace_digest(FALLBACK, "9")
    effects = core.handle(e.AssignmentReceived(assignment(anchor=anchor.digest)), 1.0)
    core.handle(e.ModelChosen(the(f.ChooseModel, effects).request, FALLBACK), 1.0)
    assert f.SubscribeModel(anchor.digest) in effects
    job = the(f.StartTraining, core.handle(release(anchor), 2.0)).job
    assert (job.kind, job.base) == ("sketch", anchor.digest)
    effects = core.handle(e.TrainingFinished(job.key), 3.0)
    assert kinds(effects)[:2] == ["KeepSketch", "SendSignature"]
    assert f.DropModel(anchor.digest) in effects
    assert core.facts.sketched == anchor.digest


@pytest.mark.parametrize(("mode", "noisy"), [("private", False), ("robust", True)])
def test_no_sketch_where_updates_are_private(mode, noisy):
    core = machine(k.Facts(locally_trained=True, active=FALLBACK), held=[FALLBACK], noisy=noisy)
    core.handle(seen(mode), 0.0)
    core.handle(e.RowsCounted(150, 150, 40, baseline_open=False), 0.0)
    anchor = replace_digest(FALLBACK, "9")
    effects = core.handle(e.AssignmentReceived(assignment(anchor=anchor.digest)), 1.0)
    assert f.SubscribeModel(anchor.digest) not in effects


# --- questions ---


def question(number=1, models=(EXPERT,), device=ME):
    return e.EvaluationAsked(EvaluationRequest(device_id=device, request=number, models=models))


def test_a_question_fetches_what_is_missing_and_is_answered_when_it_is_there():
    core = machine(held=[FALLBACK])
    asked = question(models=(FALLBACK, EXPERT))
    effects = core.handle(asked, 0.0)
    assert f.SubscribeModel(EXPERT.digest) in effects
    effects = core.handle(release(EXPERT), 1.0)
    assert f.ReportLosses(asked.request) in effects
    assert effects.index(f.ReportLosses(asked.request)) < effects.index(f.DropModel(EXPERT.digest))
    assert core.handle(asked, 2.0) == [], "the same question again"


def test_a_model_that_is_refused_ends_the_question():
    core = machine()
    asked = question()
    core.handle(asked, 0.0)
    effects = core.handle(e.ReleaseReceived(EXPERT.digest, None, "trust-bad-signature"), 1.0)
    assert f.ReportLosses(asked.request, "model-refused") in effects


def test_questions_of_others_and_old_ones_are_refused():
    core = machine()
    core.handle(question(5), 0.0)
    assert f.Refuse("evaluation-older") in core.handle(question(4), 1.0)
    assert f.Refuse("evaluation-other-device") in core.handle(question(6, device="cam-2"), 1.0)


def test_a_question_whose_model_never_comes_is_given_up():
    core = machine()
    core.handle(question(), 0.0)
    assert core.handle(e.Ticked(), 599.0) == []
    effects = core.handle(e.Ticked(), 600.0)
    assert effects == [f.Refuse("evaluation-deadline", "own"), f.UnsubscribeModel(EXPERT.digest)]


def test_every_connect_announces_and_subscribes_again():
    core = machine(note="no key")
    core.handle(e.AssignmentReceived(assignment()), 0.0)
    for _ in range(2):
        effects = core.handle(e.Connected(), 1.0)
        assert f.AnnounceDevice() in effects
        assert f.SubscribeModel(FALLBACK.digest) in effects
        assert f.PublishStatus("ready", "no key") in effects
        core.handle(e.Disconnected(), 2.0)


def test_a_gateway_that_is_new_hears_the_waiting_updates_again():
    core = machine(waiting=["round-000001-cam-1-fallback"])
    state = GatewayState(online=True, session="g-1", contract_version="1.0", gateway_version="0")
    assert f.ResendUpdate("round-000001-cam-1-fallback") in core.handle(e.GatewaySeen(state), 0.0)
    assert "ResendUpdate" not in kinds(core.handle(e.GatewaySeen(state), 1.0))
    assert "ResendUpdate" in kinds(core.handle(e.GatewaySeen(state.model_copy(update={"session": "g-2"})), 2.0))


def test_a_refusal_by_the_gateway_settles_and_is_counted():
    core = machine(waiting=["k"])
    effects = core.handle(e.ReceiptReceived(Receipt(device_id=ME, key="k", accepted=False, reason="screened")), 0.0)
    assert effects[:2] == [f.SettleUpdate("k"), f.Refuse("update-screened")]


def test_marks_and_commands_only_where_they_are_allowed_and_each_command_once():
    marks = MarkSet(run_id="run-1", device_id=ME)
    command = RunCommand(run_id="run-1", verb="evaluate", sequence=1)
    closed = machine(accept_marks=False)
    assert f.Refuse("marks-off") in closed.handle(e.MarksReceived(marks), 0.0)
    assert f.Refuse("command-off") in closed.handle(e.CommandReceived(command), 0.0)
    core = machine()
    assert f.ApplyMarks(marks) in core.handle(e.MarksReceived(marks), 0.0)
    other = marks.model_copy(update={"device_id": "cam-2"})
    assert core.handle(e.MarksReceived(other), 0.0) == [f.Refuse("marks-other-device")]
    effects = core.handle(e.CommandReceived(command), 1.0)
    assert f.Evaluate("run-1") in effects
    assert core.handle(e.CommandReceived(command), 2.0) == []
    restarted = machine(facts=the(f.SaveFacts, effects).facts)
    assert "Evaluate" not in kinds(restarted.handle(e.CommandReceived(command), 3.0))


def test_trouble_degrades_and_its_end_recovers():
    core = machine()
    core.handle(e.Connected(), 0.0)
    assert core.handle(e.HealthChanged("disk full"), 1.0) == [f.PublishStatus("degraded", "disk full")]
    assert core.handle(e.HealthChanged("disk full"), 2.0) == []
    assert core.handle(e.HealthChanged(""), 3.0) == [f.PublishStatus("ready", "")]


def test_a_process_that_died_before_choosing_chooses_after_the_restart():
    facts = k.Facts(assignment=assignment())
    core = machine(facts=facts, held=[FALLBACK])
    assert "ChooseModel" in kinds(core.handle(e.RowsCounted(0, 0, 0, baseline_open=False), 0.0))


def test_a_failed_own_training_is_tried_again_after_a_pause():
    core = machine()
    rows = e.RowsCounted(150, 150, 40, baseline_open=False)
    job = the(f.StartTraining, core.handle(rows, 0.0)).job
    core.handle(e.TrainingFailed(job.key, "training-out-of-memory"), 1.0)
    assert "StartTraining" not in kinds(core.handle(rows, 300.0))
    assert "StartTraining" in kinds(core.handle(rows, 301.0))


def test_a_verdict_labels_a_flow_of_this_device_only():
    m = machine()
    verdict = Verdict(device_id="cam-1", flow_id=9, label="scan")
    assert the(f.ApplyVerdict, m.handle(e.VerdictReceived(verdict), 0.0)).verdict == verdict
    other = verdict.model_copy(update={"device_id": "cam-2"})
    assert the(f.Refuse, m.handle(e.VerdictReceived(other), 0.0)).reason == "verdict-other-device"
