"""The agent core against an independent history: whatever order peers and failures take, the rules hold.

The history notes what was sent and what came out; invariants compare the two without looking into the machine.
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from contract.messages import Assignment, EvaluationRequest, GatewayState, Receipt, RoundTask, RunCommand, TrainTarget
from contract.model import DEFAULT_SPEC, ModelId, ReleaseManifest
from device_agent import effects as f
from device_agent import events as e
from device_agent import facts as k
from device_agent.machine import AgentMachine, MachineSettings

ME = "cam-1"
SPEC = DEFAULT_SPEC.spec_id
FACTORY = ModelId(role="factory", digest="f" * 64)
DIGESTS = [c * 64 for c in "012345"]
FALLBACKS, EXPERTS = DIGESTS[:3], DIGESTS[3:]
MIN_ROWS = 100


def manifest(digest):
    expert = digest in EXPERTS
    return ReleaseManifest(
        weights_digest=digest,
        spec_id=SPEC,
        n_parameters=DEFAULT_SPEC.n_parameters,
        role="expert" if expert else "fallback",
        family_id="family-1" if expert else None,
        round_number=1,
        parent=None,
    )


def model(digest):
    made = manifest(digest)
    return ModelId(role=made.role, family_id=made.family_id, digest=digest)


def make_task(number, device, spec, fallback, expert, deadline):
    targets = (TrainTarget(role="fallback", base=fallback),)
    if expert is not None:
        targets += (TrainTarget(role="expert", family_id="family-1", base=expert),)
    return RoundTask(
        round_id=f"round-{number:06d}",
        round_number=number,
        device_id=device,
        spec_id=spec,
        targets=targets,
        local_epochs=1,
        learning_rate=0.1,
        proximal_mu=0.0,
        recon_weight=1.0,
        seed=1,
        deadline_s=deadline,
    )


class AgentHistory(RuleBasedStateMachine):
    """Plays broker, gateway, harness and trainer, and keeps its own books."""

    @initialize()
    def start(self):
        self.now = 0.0
        self.machine = AgentMachine(
            MachineSettings(ME, SPEC, FACTORY, accept_marks=True, min_benign_rows=MIN_ROWS),
            k.Facts(),
            held={FACTORY.digest: FACTORY},
        )
        self.online = False
        self.subscribed = set()
        self.held = {FACTORY.digest}
        self.verified = {FACTORY.digest}
        self.active = FACTORY
        self.job = None
        self.job_deadline = 0.0
        self.task = None
        self.task_deadline = 0.0
        self.targets_done = {}
        self.failed_task = None
        self.updates_sent = []
        self.outbox = set()
        self.completed = []
        self.assignments_seen = []
        self.choice = None
        self.signatures = []
        self.evaluated = []
        self.commands_sent = set()
        self.saved = k.Facts()
        self.benign = 0
        self.attacks = 0
        self.rungs = {}
        self.rung_waits = None
        self.asked = -1
        self.answered = []

    # --- the world answers ---

    def send(self, event):
        effects = self.machine.handle(event, self.now)
        for effect in effects:
            self.perform(effect, event)
        return effects

    def perform(self, effect, cause):  # one branch per kind of effect
        match effect:
            case f.SubscribeModel(digest):
                assert digest not in self.held, "a model that is held is fetched again"
                self.subscribed.add(digest)
            case f.UnsubscribeModel(digest):
                self.subscribed.discard(digest)
            case f.HoldModel(digest):
                assert isinstance(cause, e.ReleaseReceived)
                assert cause.manifest is not None
                assert cause.digest == digest
                assert digest in self.verified, "held without verification"
                self.held.add(digest)
            case f.DropModel(digest):
                assert digest in self.held
                assert digest != self.active.digest, "the model in use was dropped"
                assert digest != FACTORY.digest, "the factory model was dropped"
                self.held.discard(digest)
            case f.StartTraining(job, seconds_left):
                assert self.job is None, "two jobs at once"
                assert job.base in self.held, "training from a model that is not here"
                if job.task is not None:
                    assert self.task is not None
                    assert job.task == self.task
                    assert self.now < self.task_deadline
                    assert seconds_left <= self.task_deadline - self.now + 1e-9
                    assert job.task not in self.completed, "a finished task is trained again"
                else:
                    assert self.task is None, "own training beside a round"
                    assert job.kind != "first" or self.active == FACTORY
                    assert job.kind in {"first", "sketch"} or self.attacks >= 5, "a rung that nothing can judge"
                self.job = job
            case f.CancelTraining(job_key):
                assert self.job is not None
                assert self.job.key == job_key
                self.job = None
            case f.SendUpdate(job):
                assert isinstance(cause, e.TrainingFinished)
                assert cause.job_key == job.key
                self.updates_sent.append((job.task, job.update_id))
                self.outbox.add(job.update_id)
            case f.ResendUpdate(update_id):
                assert update_id in self.outbox, "an update that is not waiting is sent again"
            case f.SettleUpdate(update_id):
                assert isinstance(cause, e.ReceiptReceived)
                assert cause.receipt.key == update_id
                self.outbox.remove(update_id)
            case f.AdoptLocal(job):
                assert job.task is None
                self.choice = effect
            case f.ChooseModel():
                for candidate in (effect.fallback, effect.expert, *effect.rungs):
                    assert candidate is None or candidate.digest in self.held
                self.choice = effect
            case f.KeepRung(job):
                assert isinstance(cause, e.TrainingFinished)
                self.rung_waits = job
            case f.ReportLosses(request, refusal):
                assert refusal or {m.digest for m in request.models} <= self.held
                self.answered.append(request.request)
            case f.SwapModel(active):
                assert isinstance(cause, e.ModelChosen), "a swap without a check"
                assert active == cause.active
                assert active.role == "factory" or active.digest in self.held, "a swap to a model that is gone"
                self.active = active
                self.held.add(active.digest)
            case f.SendSignature(sequence):
                assert self.online
                assert self.machine.settings.min_benign_rows <= self.benign
                assert not self.signatures or sequence > self.signatures[-1]
                self.signatures.append(sequence)
            case f.Evaluate(run_id):
                self.evaluated.append(run_id)
            case f.SaveFacts(facts):
                self.saved = facts
            case f.AnnounceDevice():
                assert isinstance(cause, e.Connected)
            case _:
                pass

    # --- link ---

    @rule()
    def connect(self):
        self.online = True
        self.subscribed.clear()
        kinds = [type(effect) for effect in self.send(e.Connected())]
        assert f.AnnounceDevice in kinds
        assert f.PublishStatus in kinds

    @precondition(lambda self: self.online)
    @rule()
    def disconnect(self):
        self.online = False
        self.send(e.Disconnected())

    @rule(session=st.sampled_from(["g-1", "g-2"]), online=st.booleans())
    def gateway_state(self, session, online):
        state = GatewayState(online=online, session=session, contract_version="1.0", gateway_version="0")
        self.send(e.GatewaySeen(state))

    # --- rounds ---

    @rule(
        number=st.integers(1, 4),
        device=st.sampled_from([ME, ME, ME, ME, "cam-2"]),
        spec=st.sampled_from([SPEC, SPEC, SPEC, "0" * 64]),
        fallback=st.sampled_from([FACTORY.digest] * 4 + FALLBACKS),
        expert=st.sampled_from([None] * 4 + EXPERTS),
        deadline=st.sampled_from([5.0, 50.0]),
    )
    def task_arrives(self, *, number, device, spec, fallback, expert, deadline):
        self.give(make_task(number, device, spec, fallback, expert, deadline))

    @precondition(lambda self: self.task is not None)
    @rule()
    def same_task_again(self):
        self.give(self.task)

    @precondition(lambda self: self.completed)
    @rule(data=st.data())
    def finished_task_again(self, data):
        task = data.draw(st.sampled_from(self.completed))
        ids = {i for t, i in self.updates_sent if t == task}
        before = (self.task, self.job)
        effects = self.send(e.TaskReceived(task))
        assert (self.task, self.job) == before
        resent = {x.update_id for x in effects if isinstance(x, f.ResendUpdate)}
        assert resent == ids & self.outbox, "an update that waits is sent again, one that was answered is not"

    def give(self, task):
        mine = task.device_id == ME and task.spec_id == SPEC
        done = any(_same(task, old) for old in self.completed)
        older = self.task is not None and task.round_number < self.task.round_number
        same = self.task is not None and _same(task, self.task)
        if mine and not done and not older and not same:
            # Known before the effects, so that a job of this task is legal.
            self.task, self.task_deadline = task, self.now + task.deadline_s
            self.targets_done = {}
        before = self.job
        effects = self.send(e.TaskReceived(task))
        if not mine or (older and not done):
            assert any(isinstance(x, f.Refuse) for x in effects)
            assert self.job == before
        if same or done:
            assert not any(isinstance(x, f.StartTraining | f.CancelTraining) for x in effects)

    @rule()
    def task_cleared(self):
        self.clear()

    def clear(self):
        self.task = None
        self.send(e.TaskCleared())
        assert self.job is None or self.job.task is None, "a cleared task trains on"

    @rule(seconds=st.sampled_from([0.5, 6.0, 60.0, 200.0]))
    def time_passes(self, seconds):
        self.now += seconds
        if self.task is not None and self.now >= self.task_deadline:
            self.task = None
        self.send(e.Ticked())
        if self.job is not None and self.job.task is not None:
            assert self.now < self.task_deadline, "a job outlives its deadline"

    @precondition(lambda self: self.job is not None)
    @rule(good=st.sampled_from([True, True, True, False]))
    def training_ends(self, good):
        self.end_training(good)

    def end_training(self, good):
        job, self.job = self.job, None
        sent = len(self.updates_sent)
        if job.task is not None:
            self.targets_done[job.update_id] = good
            if len(self.targets_done) == len(job.task.targets):
                if all(self.targets_done.values()):
                    self.completed.append(job.task)
                else:
                    self.failed_task = job.task
                self.task = None
        self.send(e.TrainingFinished(job.key) if good else e.TrainingFailed(job.key, "training-bad-job"))
        assert len(self.updates_sent) == sent + (1 if good and job.task is not None else 0)

    @rule(number=st.integers(1, 4), good=st.sampled_from([True, True, False]))
    def whole_round(self, number, good):
        """A round from task to update, which single rules reach too rarely."""
        self.clear()
        self.give(make_task(number, ME, SPEC, FACTORY.digest, None, 50.0))
        if self.job is not None and self.job.task is not None:
            self.end_training(good)

    @precondition(lambda self: self.failed_task is not None and self.task is None)
    @rule()
    def failed_task_again(self):
        task, self.failed_task = self.failed_task, None
        if any(_same(task, done) for done in self.completed):
            return
        self.give(task)
        missing = {target.base for target in task.targets} - self.held
        assert missing or self.job.task == task, "a task that failed is not tried again"

    @rule()
    def late_training_answer(self):
        before = list(self.updates_sent)
        effects = self.send(e.TrainingFinished("job-0"))
        assert f.Refuse("training-late", "own") in effects
        assert self.updates_sent == before

    @precondition(lambda self: self.outbox)
    @rule(data=st.data(), accepted=st.booleans(), device=st.sampled_from([ME, ME, "cam-2"]))
    def receipt(self, data, accepted, device):
        key = data.draw(st.sampled_from(sorted(self.outbox)))
        self.send(e.ReceiptReceived(Receipt(device_id=device, key=key, accepted=accepted, reason="stored")))
        assert (key in self.outbox) == (device != ME)

    # --- models ---

    @rule(
        version=st.integers(0, 6),
        device=st.sampled_from([ME, ME, ME, "cam-2"]),
        fallback=st.sampled_from([None, *FALLBACKS]),
        expert=st.sampled_from([None, *EXPERTS]),
        anchor=st.sampled_from([None, DIGESTS[0]]),
    )
    def assignment(self, *, version, device, fallback, expert, anchor):
        assignment = Assignment(
            device_id=device,
            version=version,
            family_id="family-1" if expert else None,
            reason="test",
            fallback=model(fallback) if fallback else None,
            expert=model(expert) if expert else None,
            anchor=anchor,
        )
        newest = self.assignments_seen[-1] if self.assignments_seen else None
        taken = device == ME and (newest is None or version > newest.version)
        if taken:
            self.assignments_seen.append(assignment)
        before = (self.active, set(self.held), set(self.subscribed), self.choice)
        effects = self.send(e.AssignmentReceived(assignment))
        if not taken:
            assert (self.active, self.held, self.subscribed, self.choice) == before
            assert assignment == newest or any(isinstance(x, f.Refuse) for x in effects)

    @precondition(lambda self: self.online)
    @rule(digest=st.sampled_from(DIGESTS), good=st.sampled_from([True, True, True, False]))
    def release(self, digest, good):
        active, held = self.active, set(self.held)
        if good:
            if digest in self.subscribed:
                self.verified.add(digest)
            self.send(e.ReleaseReceived(digest, manifest(digest)))
        else:
            effects = self.send(e.ReleaseReceived(digest, None, "trust-bad-signature"))
            assert f.Refuse("trust-bad-signature") in effects
            # A question that ends with it may let go of the other models it asked for.
            assert self.held <= held
        assert self.active == active, "a release alone changed the model in use"

    @precondition(lambda self: self.choice is not None)
    @rule(fit=st.sampled_from([True, True, False]))
    def choice_answered(self, fit):
        choice, self.choice = self.choice, None
        if isinstance(choice, f.AdoptLocal):
            own = ModelId(role="factory", digest="a" * 64)
            answer = (
                e.ModelChosen(choice.request, own) if fit else e.ModelUnfit(choice.request, own.digest, "self-check")
            )
        else:
            named = [m for m in (choice.expert, choice.fallback) if m is not None]
            candidates = [*reversed(choice.rungs), *named] if named else [self.active]
            answer = (
                e.ModelChosen(choice.request, candidates[0])
                if fit
                else e.ModelUnfit(choice.request, candidates[0].digest, "self-check")
            )
        before = self.active
        self.send(answer)
        if not fit:
            assert self.active == before

    @rule()
    def stale_choice_answer(self):
        before = self.active
        self.send(e.ModelChosen(-1, model(DIGESTS[0])))
        assert self.active == before

    # --- rows, harness, restart ---

    @rule(
        benign=st.sampled_from([0, MIN_ROWS - 1, MIN_ROWS, 400, 3000]),
        open_=st.booleans(),
        more=st.integers(0, 500),
        attacks=st.sampled_from([0, 4, 40]),
    )
    def rows(self, benign, open_, more, attacks):
        self.benign, self.attacks = benign, attacks
        self.send(e.RowsCounted(benign, benign + more, more, baseline_open=open_, attacks=attacks))

    @precondition(lambda self: self.rung_waits is not None)
    @rule(fit=st.booleans())
    def rung_made(self, *, fit):
        job, self.rung_waits = self.rung_waits, None
        made = ModelId(role=job.kind, digest=f"{len(self.rungs) + 1:064x}")
        if fit:
            self.rungs[made.digest] = made
            self.held.add(made.digest)
        before = self.active
        self.send(e.RungMade(made if fit else None))
        assert self.active == before, "a rung is used without a comparison"

    @rule(number=st.integers(0, 4), digests=st.lists(st.sampled_from(DIGESTS), min_size=1, max_size=3, unique=True))
    def asked_for_losses(self, number, digests):
        before = len(self.answered)
        request = EvaluationRequest(device_id=ME, request=number, models=tuple(model(d) for d in digests))
        self.send(e.EvaluationAsked(request))
        if number <= self.asked:
            assert len(self.answered) == before, "an old question is answered"
        self.asked = max(self.asked, number)

    @invariant()
    def no_question_is_answered_twice(self):
        assert len(set(self.answered)) == len(self.answered)

    @rule()
    def drifted(self):
        self.send(e.TrafficDrifted())

    @rule(sequence=st.integers(0, 3), run=st.sampled_from(["run-a", "run-b"]))
    def command(self, sequence, run):
        fresh = (run, sequence) not in self.commands_sent
        self.commands_sent.add((run, sequence))
        before = len(self.evaluated)
        self.send(e.CommandReceived(RunCommand(run_id=run, verb="evaluate", sequence=sequence)))
        assert len(self.evaluated) == before + fresh

    @rule()
    def killed_and_restarted(self):
        """Nothing but the saved facts, the held models and the outbox survives."""
        known = {FACTORY.digest: FACTORY, self.active.digest: self.active, **self.rungs}
        self.rung_waits = None
        names = {digest: known.get(digest) or model(digest) for digest in self.held}
        self.machine = AgentMachine(
            self.machine.settings, self.saved, held=names, waiting_updates=frozenset(self.outbox)
        )
        self.online, self.job, self.task, self.choice = False, None, None, None
        self.subscribed.clear()
        self.benign = 0
        self.send(e.Ticked())

    # --- what always holds ---

    @invariant()
    def the_model_in_use_is_held_and_was_verified(self):
        if not hasattr(self, "active"):
            return
        assert self.machine.active == self.active
        assert self.active.digest in self.held
        assert self.active.role == "factory" or self.active.digest in self.verified

    @invariant()
    def a_running_job_belongs_to_the_present_task(self):
        if hasattr(self, "job") and self.job is not None and self.job.task is not None:
            assert self.task == self.job.task

    @invariant()
    def what_is_assigned_and_missing_is_asked_for_while_online(self):
        if not hasattr(self, "active") or not self.online or not self.assignments_seen:
            return
        newest = self.assignments_seen[-1]
        wanted = {m.digest for m in (newest.fallback, newest.expert) if m is not None}
        assert wanted - self.held <= self.subscribed

    @invariant()
    def the_device_holds_few_models(self):
        if hasattr(self, "held"):
            assert len(self.held) <= 8


def _same(one, other):
    return (one.round_id, one.seed, one.targets) == (other.round_id, other.seed, other.targets)


TestAgentHistory = AgentHistory.TestCase
TestAgentHistory.settings = settings(
    max_examples=120, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
