"""The agent core: which models to hold, what to train, what to say. Sans I/O.

``handle(event, now_s)`` returns effects; the shell performs them in order. Rules, beside those of the training desk
(``device_agent.rounds``):

- A task or assignment of another device, spec or (for assignments) an older epoch or version is refused and changes
  nothing.
- A model is fetched by subscribing to its digest, and only while a task or the assignment wants it. A refused release
  changes nothing but a counter.
- The model in use changes only by :class:`ModelChosen`, the shell's answer to the newest :class:`ChooseModel`, after
  verification and self check. Both the expert and the fallback are waited for, unless one of them was refused.
- Before any assignment a device with enough benign rows trains its own first model, once.
- What a device makes for itself beside that (the upper rungs of the ladder, the sketch of its signature) waits until no
  round task is there (``device_agent.making``).
- Questions of the gateway are answered one at a time; the newest counts (``device_agent.questions``).
- Nothing here needs the broker: effects that do are repeated at the next connect.

Longer than other modules: every rule reads and changes the same facts, and their order is part of them. What needs only
a part of the facts is apart (``rounds``, ``making``, ``questions``, ``choosing``).
"""

import math
from dataclasses import dataclass, replace

from contract.messages import Assignment, DeviceState
from contract.model import ModelId
from device_agent.effects import (
    AdoptLocal,
    AnnounceDevice,
    ApplyMarks,
    ApplyVerdict,
    ChooseModel,
    DeclineTask,
    DropModel,
    Effect,
    Evaluate,
    HoldModel,
    KeepRung,
    KeepSketch,
    PublishStatus,
    Refuse,
    ResendUpdate,
    SaveFacts,
    SendSignature,
    SendUpdate,
    SettleUpdate,
    SubscribeModel,
    SwapModel,
    UnsubscribeModel,
)
from device_agent.events import (
    AssignmentReceived,
    CommandReceived,
    Connected,
    Disconnected,
    EvaluationAsked,
    Event,
    GatewaySeen,
    HealthChanged,
    MarksReceived,
    ModelChosen,
    ModelUnfit,
    ReceiptReceived,
    ReleaseReceived,
    RowsCounted,
    RungMade,
    TaskCleared,
    TaskReceived,
    Ticked,
    TrafficDrifted,
    TrainingFailed,
    TrainingFinished,
    VerdictReceived,
)
from device_agent.facts import Facts, Job
from device_agent.making import forget_missing_rungs, next_made, note_made, usable_rungs, wanted_anchor
from device_agent.questions import Questions
from device_agent.rounds import TrainingDesk, fingerprint
from device_agent.rungs import KEEP_ROUNDS

_REMEMBERED = 32
_GROWTH = 1.5
"""Rows must grow by this factor before a signature or a calibration is worth repeating."""
_MIN_CALIBRATION = 20
_LOCAL_RETRY_S = 300.0
"""Pause after a failed training of the device's own model."""
_BASELINE_ENOUGH = 5
"""A device trains before its baseline window ends once it has this many times the rows it needs."""


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """Identity and thresholds of the core.

    Attributes
    ----------
    device_id, spec_id
        Who this is, and the architecture it works with.
    factory
        The model shipped with the agent.
    accept_marks
        Whether a test harness may label and command.
    min_benign_rows
        Benign training rows before a signature or the device's own training.
    note
        Reason of the status while nothing worse is up, such as that no release can be trusted.
    signature_rows
        Benign training rows before a signature, 0 = as ``min_benign_rows``.
    noisy
        Whether signatures hide single flows: each costs privacy, so they are made sparingly and without a sketch.
    """

    device_id: str
    spec_id: str
    factory: ModelId
    accept_marks: bool = False
    min_benign_rows: int = 200
    note: str = ""
    signature_rows: int = 0
    noisy: bool = False


class AgentMachine:
    """The core of one agent.

    Parameters
    ----------
    settings
        Identity and thresholds.
    facts
        What the last process left behind.
    held
        Models that are on the device, the factory model among them.
    waiting_updates
        Update ids in the outbox.
    """

    def __init__(
        self,
        settings: MachineSettings,
        facts: Facts,
        *,
        held: dict[str, ModelId],
        waiting_updates: frozenset[str] = frozenset(),
    ) -> None:
        self.settings = settings
        self.facts = facts
        self.held = dict(held)
        self.active = facts.active or settings.factory
        self.desk = TrainingDesk()
        self.subscribed: set[str] = set()
        self.waiting_updates = set(waiting_updates)
        self._saved = facts
        self._connected = False
        self._gateway_session = ""
        # What a signature may tell depends on the gateway's mode, so the first one waits for that.
        self._mode_known = False
        self._unfit: set[str] = set()
        self._health = ""
        self._status: tuple[DeviceState, str] | None = None
        self._rows = RowsCounted(0, 0, 0, baseline_open=True)
        self._signature_rows = (0, 0)
        self._questions = Questions(settings.device_id)
        self._local_not_before_s = -math.inf
        self._request = 0
        self._request_open = False
        # A process that died between holding and choosing has the choice before it; rows must be counted first.
        self._choice_due = facts.assignment is not None
        self.facts = forget_missing_rungs(facts, self.held)

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """Take one event at a monotonic time in seconds; return what to do, in order."""
        effects = self._react(event, now_s)
        effects += self._work(now_s)
        effects += self._converge()
        if self.facts != self._saved:
            self._saved = self.facts
            effects.append(SaveFacts(self.facts))
        return effects + self._say_status(announce=isinstance(event, Connected))

    def _react(self, event: Event, now_s: float) -> list[Effect]:  # noqa: C901, PLR0912  # one branch per kind of event
        match event:
            case Ticked():
                return [*self.desk.expire(now_s), *self._questions.expire(now_s)]
            case Connected() | Disconnected() | GatewaySeen():
                return self._on_link(event)
            case TaskReceived() | TaskCleared():
                return self._on_task(event, now_s)
            case AssignmentReceived(assignment):
                return self._on_assignment(assignment)
            case ReleaseReceived():
                return self._on_release(event)
            case ReceiptReceived():
                return self._on_receipt(event)
            case TrainingFinished() | TrainingFailed():
                return self._on_training(event, now_s)
            case RowsCounted():
                return self._on_rows(event)
            case ModelChosen() | ModelUnfit():
                return self._on_choice(event)
            case RungMade(model):
                return self._on_rung(model)
            case EvaluationAsked(request):
                self.facts, effects = self._questions.ask(request, self.facts, now_s)
                return effects
            case TrafficDrifted():
                return self._sign(sparing=False)
            case MarksReceived() | CommandReceived():
                return self._on_harness(event)
            case VerdictReceived(verdict):
                mine = verdict.device_id == self.settings.device_id
                return [ApplyVerdict(verdict)] if mine else [Refuse("verdict-other-device")]
            case HealthChanged(reason):
                self._health = reason
                return []

    def _on_link(self, event: Connected | Disconnected | GatewaySeen) -> list[Effect]:
        if isinstance(event, GatewaySeen):
            new = event.state.online and event.state.session != self._gateway_session
            self._gateway_session = event.state.session if event.state.online else self._gateway_session
            first, self._mode_known = not self._mode_known, True
            self.facts = replace(self.facts, private=event.state.mode == "private")
            resent = self._resend(sorted(self.waiting_updates)) if new else []
            return [*resent, *(self._sign() if first else [])]
        self._connected = isinstance(event, Connected)
        if not self._connected:
            # A gateway that is heard again after a gap may have lost what was sent into it.
            self._gateway_session = ""
            self._mode_known = False
            return []
        return [AnnounceDevice(), *(SubscribeModel(digest) for digest in sorted(self.subscribed))]

    def _on_task(self, event: TaskReceived | TaskCleared, now_s: float) -> list[Effect]:
        if isinstance(event, TaskCleared):
            return self.desk.clear()
        task = event.task
        if task.device_id != self.settings.device_id:
            return [Refuse("task-other-device")]
        if task.spec_id != self.settings.spec_id:
            return [Refuse("task-spec"), DeclineTask(task.round_id, "task-spec")]
        mark = fingerprint(task)
        if mark in self.facts.trained:
            ids = [Job("", t.base, task, t).update_id for t in task.targets]
            return self._resend([i for i in ids if i in self.waiting_updates])
        if self.desk.task is not None and fingerprint(self.desk.task) == mark:
            return []
        effects = self.desk.accept(task, now_s)
        for digest in (self._unfit - set(self.held)) & self.desk.bases:
            self.desk.give_up_base(digest)
        return [*effects, *self._end_task()]

    def _on_assignment(self, assignment: Assignment) -> list[Effect]:
        known = self.facts.assignment
        if assignment.device_id != self.settings.device_id:
            return [Refuse("assignment-other-device")]
        if known is not None and _epoch(assignment) < _epoch(known):
            return [Refuse("assignment-older-epoch")]
        if known is not None and _epoch(assignment) > _epoch(known):
            # The gateway's store is a new one: what the old one said is over, whatever its version.
            known = None
            self.facts = replace(self.facts, asked=-1, tuned_version=0, rung_since=0)
        if known is not None and assignment.version < known.version:
            return [Refuse("assignment-older")]
        if known is not None and assignment.version == known.version:
            return [] if assignment == known else [Refuse("assignment-same-version")]
        self.facts = replace(self.facts, assignment=assignment)
        self._unfit.clear()
        # Candidates of the assignment before may be dropped now.
        self._request_open = False
        return self._choose()

    def _on_release(self, event: ReleaseReceived) -> list[Effect]:
        if event.manifest is None:
            self._unfit.add(event.digest)
            self.desk.give_up_base(event.digest)
            return [Refuse(event.refusal or "release-refused"), *self._end_task(), *self._choose()]
        if event.digest in self.held:
            return []
        if event.digest not in self.subscribed:
            return [Refuse("release-unasked")]
        manifest = event.manifest
        self._unfit.discard(event.digest)
        self.held[event.digest] = ModelId(role=manifest.role, family_id=manifest.family_id, digest=event.digest)
        return [HoldModel(event.digest), *(self._choose() if event.digest in self._assigned() else [])]

    def _on_receipt(self, event: ReceiptReceived) -> list[Effect]:
        receipt = event.receipt
        if receipt.device_id != self.settings.device_id:
            return [Refuse("receipt-other-device")]
        if receipt.key not in self.waiting_updates:
            return []
        self.waiting_updates.discard(receipt.key)
        said_no: list[Effect] = [] if receipt.accepted else [Refuse(f"update-{receipt.reason}"[:60])]
        return [SettleUpdate(receipt.key), *said_no]

    def _on_training(self, event: TrainingFinished | TrainingFailed, now_s: float) -> list[Effect]:
        if isinstance(event, TrainingFailed):
            job, effects = self.desk.fail(event.job_key, event.reason)
            if job is not None and job.task is None:
                self._local_not_before_s = now_s + _LOCAL_RETRY_S
        else:
            job, effects = self.desk.finish(event.job_key)
            if job is not None and job.task is None:
                effects += self._on_own_training(job)
        self.waiting_updates.update(e.job.update_id for e in effects if isinstance(e, SendUpdate))
        return [*effects, *self._end_task()]

    def _on_own_training(self, job: Job) -> list[Effect]:
        if job.kind == "first":
            self.facts = replace(self.facts, locally_trained=True)
            return [AdoptLocal(job, self._open_request())]
        self.facts = note_made(self.facts, job, self._rows)
        if job.kind == "sketch":
            return [KeepSketch(job), *self._sign()]
        return [KeepRung(job)]

    def _on_rung(self, model: ModelId | None) -> list[Effect]:
        if model is None:
            return [Refuse("rung-unfit", "own")]
        self.held[model.digest] = model
        others = tuple(m for m in self.facts.rungs if m.role != model.role)
        self.facts = replace(self.facts, rungs=(*others, model))
        due = next_made(self.facts, self._rows, factory=self.settings.factory, sketches=False)
        # All rungs are compared at once, when the last one is there.
        return self._choose() if due is None else []

    def _end_task(self) -> list[Effect]:
        """Remember a task whose updates were all made; decline what one that is over leaves open."""
        task, failure = self.desk.take_finished_task()
        if task is None:
            return []
        if failure:
            return [DeclineTask(task.round_id, failure)]
        self.facts = replace(self.facts, trained=(*self.facts.trained, fingerprint(task))[-_REMEMBERED:])
        return []

    def _on_rows(self, rows: RowsCounted) -> list[Effect]:
        self._rows = rows
        effects: list[Effect] = []
        grown = rows.benign >= _GROWTH * self._signature_rows[0] or rows.train >= _GROWTH * self._signature_rows[1]
        if grown:
            effects += self._sign()
        calibrated_rows = self.facts.calibrated_rows
        outgrown = calibrated_rows is not None and rows.validation >= max(_GROWTH * calibrated_rows, _MIN_CALIBRATION)
        if self._choice_due or (outgrown and not self._request_open):
            self._choice_due = False
            effects += self._choose()
        return effects

    def _on_choice(self, event: ModelChosen | ModelUnfit) -> list[Effect]:
        if event.request != self._request or not self._request_open:
            return [Refuse("choice-late", "own")]
        self._request_open = False
        if isinstance(event, ModelUnfit):
            self._unfit.add(event.digest)
            return [Refuse(event.reason, "own"), *self._choose()]
        version = self.facts.assignment.version if self.facts.assignment else 0
        since = self.facts.rung_since if event.active.role == self.active.role else version
        if self.active.role == "factory":
            # Where a device starts is no choice that it would have to keep.
            since = version - KEEP_ROUNDS
        self.active = self.held[event.active.digest] = event.active
        self.facts = replace(self.facts, active=event.active, calibrated_rows=self._rows.validation, rung_since=since)
        return [SwapModel(event.active, event.request, version)]

    def _on_harness(self, event: MarksReceived | CommandReceived) -> list[Effect]:
        if isinstance(event, MarksReceived):
            if not self.settings.accept_marks:
                return [Refuse("marks-off")]
            if event.marks.device_id != self.settings.device_id:
                return [Refuse("marks-other-device")]
            return [ApplyMarks(event.marks)]
        if not self.settings.accept_marks:
            return [Refuse("command-off")]
        key = f"{event.command.run_id}/{event.command.sequence}"
        if key in self.facts.commands:
            return []
        self.facts = replace(self.facts, commands=(*self.facts.commands, key)[-_REMEMBERED:])
        return [Evaluate(event.command.run_id)]

    def _choose(self) -> list[Effect]:
        """Ask for a choice among what the assignment names, or for a new calibration of the device's own model."""
        assignment = self.facts.assignment
        named = [] if assignment is None else [m for m in (assignment.fallback, assignment.expert) if m is not None]
        if not named:
            own = self.active.role == "factory" and self.facts.locally_trained and self.active != self.settings.factory
            return [ChooseModel(self._open_request(), None, None, "own-model")] if own else []
        if any(m.digest not in self.held and m.digest not in self._unfit for m in named):
            return []
        effects: list[Effect] = []
        usable: dict[str, ModelId] = {}
        for model in named:
            if model.digest in self._unfit:
                continue
            held = self.held[model.digest]
            if held.role == "expert" and held.family_id != model.family_id:
                effects.append(Refuse("release-other-family"))
                continue
            usable[model.role] = model
        if not usable:
            return effects
        reason = "expert-default" if "expert" in usable else "fallback-only"
        version = 0 if assignment is None else assignment.version
        choose = ChooseModel(
            self._open_request(),
            usable.get("fallback"),
            usable.get("expert"),
            reason,
            rungs=self._usable_rungs(),
            step="" if self.active.role == "factory" else self.active.role,
            rounds=max(0, version - self.facts.rung_since),
        )
        return [*effects, choose]

    def _usable_rungs(self) -> tuple[ModelId, ...]:
        """Return the device's own candidates; their alerts name the family that the device belongs to now."""
        family_id = None if self.facts.assignment is None else self.facts.assignment.family_id
        return tuple(
            model.model_copy(update={"family_id": family_id})
            for model in usable_rungs(self.facts, self._rows)
            if model.digest in self.held and model.digest not in self._unfit
        )

    def _open_request(self) -> int:
        self._request += 1
        self._request_open = True
        return self._request

    def _work(self, now_s: float) -> list[Effect]:
        """Start the training that is due."""
        effects = self.desk.next_job(frozenset(self.held), now_s)
        rows, enough = self._rows, self.settings.min_benign_rows
        ready = rows.benign >= enough and (not rows.baseline_open or rows.benign >= _BASELINE_ENOUGH * enough)
        idle = self.desk.task is None and self.desk.job is None and not self._request_open
        untrained = not self.facts.locally_trained and self.active == self.settings.factory
        if ready and idle and untrained and now_s >= self._local_not_before_s:
            return [*effects, *self.desk.start_local(self.settings.factory.digest, now_s)]
        due = next_made(
            self.facts, rows, factory=self.settings.factory, sketches=not self.settings.noisy and rows.benign >= enough
        )
        if idle and not effects and due is not None and due.base in self.held and now_s >= self._local_not_before_s:
            effects += self.desk.start_local(due.base, now_s, due.kind, own_classes=due.own_classes)
        return effects

    def _converge(self) -> list[Effect]:
        """Subscribe to models that are wanted and not held; drop those that nobody wants."""
        answers = self._questions.answer(frozenset(self.held), frozenset(self._unfit))
        wanted = self._assigned() | self.desk.bases | self._questions.wanted | self._anchor()
        keep = wanted | {self.active.digest, self.settings.factory.digest, *(m.digest for m in self.facts.rungs)}
        missing = wanted - set(self.held)
        effects: list[Effect] = [SubscribeModel(d) for d in sorted(missing - self.subscribed)]
        effects += [UnsubscribeModel(d) for d in sorted(self.subscribed - missing)]
        self.subscribed = set(missing)
        for digest in sorted(set(self.held) - keep):
            del self.held[digest]
            effects.append(DropModel(digest))
        return [*answers, *effects]

    def _anchor(self) -> set[str]:
        """Return the anchor while the sketch at it is still to be made."""
        enough = self._rows.benign >= self.settings.min_benign_rows
        due = wanted_anchor(self.facts) if enough and not self.settings.noisy else None
        return set() if due is None else {due}

    def _assigned(self) -> set[str]:
        assignment = self.facts.assignment
        if assignment is None:
            return set()
        return {model.digest for model in (assignment.fallback, assignment.expert) if model is not None}

    def _sign(self, *, sparing: bool = True) -> list[Effect]:
        """Send a signature of what is there now; one with noise costs privacy, so it waits until rows have grown."""
        benign, facts = self._rows.benign, self.facts
        if not (self._connected and self._mode_known):
            return []
        if benign < (self.settings.signature_rows or self.settings.min_benign_rows):
            return []
        if self.settings.noisy and sparing and benign < _GROWTH * facts.signed_rows:
            return []
        self._signature_rows = (benign, self._rows.train)
        self.facts = replace(facts, signature_sequence=facts.signature_sequence + 1, signed_rows=benign)
        return [SendSignature(self.facts.signature_sequence, moments_only=self.facts.private)]

    def _resend(self, update_ids: list[str]) -> list[Effect]:
        return [ResendUpdate(update_id) for update_id in update_ids]

    def _say_status(self, *, announce: bool) -> list[Effect]:
        state: DeviceState = "ready"
        if self._health:
            state = "degraded"
        elif self.desk.job is not None:
            state = "training"
        status = (state, self._health or self.settings.note)
        if status == self._status and not announce:
            return []
        self._status = status
        return [PublishStatus(*status)]


def _epoch(assignment: Assignment) -> int:
    return 0 if assignment.epoch is None else assignment.epoch.number
