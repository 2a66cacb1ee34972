"""The effects of the core, done: files, database, broker, training process, detector.

Longer than other modules for the number of effects: each is a branch and a few lines.
"""

import logging
from collections import deque

import numpy as np

from contract.messages import ActiveModel, Decline, EvaluationReport, EveAlert, Message, Verdict
from contract.taxonomy import BENIGN_INDEX, CLASS_INDEX
from contract.topics import (
    ACTIVE,
    ALERT,
    BIRTH,
    DECLINE,
    LOSSES,
    RELEASE,
    RELEASE_OFFER,
    REPORT,
    SIGNATURE,
    STATUS,
    UPDATE,
)
from device_agent.choosing import Chosen, calibrated, choose_detector, score_exam, self_check
from device_agent.effects import (
    AdoptLocal,
    AnnounceDevice,
    ApplyMarks,
    ApplyVerdict,
    CancelTraining,
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
    ReportLosses,
    ResendUpdate,
    SaveFacts,
    SendSignature,
    SendUpdate,
    SettleUpdate,
    StartTraining,
    SubscribeModel,
    SwapModel,
    UnsubscribeModel,
)
from device_agent.encoding import ErrorFeedback
from device_agent.events import Event, ModelChosen, ModelUnfit, RungMade, TrainingFailed
from device_agent.labels.marks import Mask
from device_agent.labels.source import Source
from device_agent.learner import Outcome, make_update
from device_agent.memory import model_id, own_model
from device_agent.parts import Parts
from device_agent.samples.guard import without_bursts
from device_agent.samples.pool import Rows
from device_agent.samples.split import Split
from device_agent.training.resuming import in_order
from device_agent.workshop import Workshop

log = logging.getLogger("kinwatch.agent")

_ROWS_AT_ONCE = 256


class Performer:
    """Does what the core asks for; what comes of it returns as an event.

    Parameters
    ----------
    parts
        Everything that was built from the configuration.

    Attributes
    ----------
    events
        For the core, oldest first.
    outcomes
        Finished training jobs by key that the core was told of.
    """

    def __init__(self, parts: Parts) -> None:
        self.events: deque[Event] = deque()
        self.outcomes: dict[str, Outcome] = {}
        self._parts = parts
        self._rng = np.random.default_rng()
        self._workshop = Workshop(parts, self._rng)
        self._chosen: dict[int, Chosen] = {}
        self._last_active = _still_active(parts)
        self._forms = ErrorFeedback()
        self._alert_number = 0
        if self._last_active is not None:
            parts.pipeline.drift.set_reference(parts.evidence().benign_train)

    def take_alerts(self, alerts: list[EveAlert]) -> None:
        """Write alerts to the file, then to the outbox."""
        parts = self._parts
        parts.memory.alerts.append([alert.model_dump_json().encode() for alert in alerts])
        numbered: dict[str, Message] = {}
        for alert in alerts:
            self._alert_number += 1
            numbered[f"alert-{parts.session}-{self._alert_number}"] = alert
        parts.post.keep("alert", ALERT, numbered)

    def take_rows(
        self,
        rows: Rows,
        exam: Mask,
        alerted: Mask,
    ) -> None:
        """Offer labelled rows to the buffer; the store follows."""
        offered = self._parts.buffer.offer(rows, exam, alerted)
        store = self._parts.memory.samples
        store.follow(rows, offered)
        if len(store) >= _ROWS_AT_ONCE:
            # Beside the second-by-second save: a burst must not be lost with the process.
            store.flush()
        for reason, count in offered.refused.items():
            self._parts.count(f"rows-{reason}", count)

    def perform(self, effect: Effect) -> None:  # noqa: C901, PLR0912, PLR0915  # one branch per kind of effect
        """Do what the core asks for; what comes of it returns as an event."""
        parts = self._parts
        match effect:
            case SubscribeModel(digest):
                if parts.transport is not None:
                    parts.transport.subscribe(RELEASE.of(digest=digest))
                    parts.transport.subscribe(RELEASE_OFFER.of(digest=digest))
            case UnsubscribeModel(digest):
                if parts.transport is not None:
                    parts.transport.unsubscribe(RELEASE.of(digest=digest))
                    parts.transport.unsubscribe(RELEASE_OFFER.of(digest=digest))
            case HoldModel(digest):
                model = parts.reader.staged.pop(digest)
                parts.memory.models[digest] = model
                parts.memory.state.keep_model(model)
            case DropModel(digest):
                parts.memory.models.pop(digest, None)
                parts.memory.state.drop_model(digest)
            case StartTraining():
                self._start_training(effect)
            case CancelTraining(job_key):
                parts.learner.cancel(job_key)
            case SendUpdate(job):
                self._send_update(job.key)
            case DeclineTask(round_id, reason):
                log.info("event=task-declined round=%s reason=%s", round_id, reason)
                parts.post.say(DECLINE, Decline(round_id=round_id, device_id=parts.config.device.id, reason=reason))
            case ResendUpdate(update_id):
                parts.post.resend(update_id)
            case SettleUpdate(update_id):
                parts.post.settle(update_id)
            case AdoptLocal(job, request):
                self._adopt(job.key, request)
            case ChooseModel():
                self._choose(effect)
            case SwapModel():
                self._swap(effect)
            case SendSignature():
                self._send_signature(effect)
            case KeepRung():
                self._keep_rung(effect)
            case KeepSketch(job):
                self._workshop.keep_sketch(self.outcomes.pop(job.key))
            case ReportLosses(request, refusal):
                parts.post.say(LOSSES, self._workshop.losses(request, refusal))
            case AnnounceDevice():
                parts.post.say(BIRTH, parts.birth)
                if self._last_active is not None:
                    parts.post.say(ACTIVE, self._last_active)
            case PublishStatus(state, reason):
                log.info("event=status state=%s reason=%r", state, reason)
                parts.supervisor.status(f"{state} {reason}".strip())
                parts.post.say(STATUS, parts.status(state, reason))
            case ApplyMarks(marks):
                parts.pipeline.set_marks(marks)
                log.info("event=marks run=%s rules=%d coverage=%d", marks.run_id, len(marks.rules), len(marks.coverage))
            case ApplyVerdict(verdict):
                self._apply_verdict(verdict)
            case Evaluate(run_id):
                self._evaluate(run_id)
            case SaveFacts(facts):
                parts.memory.save_facts(facts)
            case Refuse(reason, kind):
                parts.count(reason)
                log.warning("event=refused reason=%s cause=%s", reason, kind)

    def _apply_verdict(self, verdict: Verdict) -> None:
        """Label the row of an alert: one that waits goes into the buffer, one that is held changes its label."""
        parts, label = self._parts, CLASS_INDEX[verdict.label]
        parts.pipeline.add_verdict(verdict.flow_id, label)
        waiting = parts.buffer.take_open(verdict.flow_id, label)
        if waiting is not None:
            nobody = np.zeros(len(waiting), dtype=bool)
            self.take_rows(waiting, nobody, nobody)
        # A flow may have two rows, one from before its end.
        if parts.buffer.relabel(verdict.flow_id, label, int(Source.VERDICT)):
            parts.memory.samples.relabel(verdict.flow_id, label, int(Source.VERDICT))
        elif waiting is None:
            parts.count("verdict-row-gone")
        log.info("event=verdict flow=%d label=%s", verdict.flow_id, verdict.label)

    def _start_training(self, effect: StartTraining) -> None:
        job, parts = effect.job, self._parts
        rows = parts.buffer.rows(Split.TRAIN)
        base = parts.memory.models[job.base].weights
        unfinished = parts.learner.unfinished(job, rows)
        if unfinished is not None:
            log.info("event=training-resumed job=%s epochs=%d", job.update_id or "own-model", unfinished[1].epochs)
            parts.learner.start(job, unfinished[0], base, seconds_left=effect.seconds_left, resume=unfinished[1])
            return
        if job.kind == "first":
            rows = rows.select(rows.y == BENIGN_INDEX)
        rows, bursts = without_bursts(rows, parts.buffer.settings.split)
        if bursts:
            parts.count("rows-burst", bursts)
        if not len(rows):
            self.events.append(TrainingFailed(job.key, "training-no-rows"))
            return
        parts.learner.start(job, in_order(rows), base, seconds_left=effect.seconds_left)

    def _send_update(self, job_key: str) -> None:
        outcome = self.outcomes.pop(job_key)
        validation = self._parts.buffer.rows(Split.VALIDATION)
        update = make_update(outcome, validation, self._parts.engine, self._rng, self._forms)
        self._parts.post.replace("update", UPDATE, update.update_id, update)

    def _adopt(self, job_key: str, request: int) -> None:
        outcome, parts = self.outcomes.pop(job_key), self._parts
        model = own_model(parts.spec, outcome.finished.result.theta, parent=outcome.job.base)
        evidence = parts.evidence()
        unfit = self_check(parts.engine, model.weights, evidence.validation)
        if unfit is not None:
            self.events.append(ModelUnfit(request, model.digest, unfit))
            return
        parts.memory.models[model.digest] = model
        parts.memory.state.keep_model(model)
        detector = calibrated(model_id(model), model.weights, evidence, parts.engine)
        self._chosen = {request: Chosen(detector, "own-model", None, None, len(evidence.validation))}
        self.events.append(ModelChosen(request, detector.model))

    def _choose(self, effect: ChooseModel) -> None:
        parts = self._parts
        evidence = parts.evidence()
        weights = {digest: model.weights for digest, model in parts.memory.models.items()}
        for candidate in (effect.fallback, effect.expert, *effect.rungs):
            unfit = candidate and self_check(parts.engine, weights[candidate.digest], evidence.validation)
            if candidate is not None and unfit:
                self.events.append(ModelUnfit(effect.request, candidate.digest, unfit))
                return
        chosen = choose_detector(effect, weights, parts.machine.active, evidence, parts.engine)
        self._chosen = {effect.request: chosen}
        self.events.append(ModelChosen(effect.request, chosen.detector.model))

    def _swap(self, effect: SwapModel) -> None:
        chosen, parts = self._chosen.pop(effect.request), self._parts
        parts.pipeline.detector = chosen.detector
        parts.pipeline.drift.set_reference(parts.evidence().benign_train)
        calibration = chosen.detector.calibration
        parts.memory.save_calibration(effect.active.digest, calibration)
        self._last_active = ActiveModel(
            device_id=parts.config.device.id,
            assignment_version=effect.assignment_version,
            active=effect.active,
            reason=chosen.reason,
            gain=chosen.gain,
            z=chosen.z,
            threshold=calibration.threshold,
            validation_rows=chosen.validation_rows,
        )
        log.info(
            "event=model-in-use role=%s family=%s digest=%s reason=%s threshold=%.4f rows=%d",
            effect.active.role,
            effect.active.family_id,
            effect.active.digest[:12],
            chosen.reason,
            calibration.threshold,
            chosen.validation_rows,
        )
        parts.post.say(ACTIVE, self._last_active)

    def _send_signature(self, effect: SendSignature) -> None:
        message = self._workshop.signature(effect.sequence, moments_only=effect.moments_only)
        if message is not None:
            log.info("event=signature sequence=%d flows=%d", effect.sequence, message.flows)
            self._parts.post.say(SIGNATURE, message)

    def _keep_rung(self, effect: KeepRung) -> None:
        model = self._workshop.keep_rung(self.outcomes.pop(effect.job.key))
        self.events.append(RungMade(model))

    def _evaluate(self, run_id: str) -> None:
        parts = self._parts
        if parts.pipeline.ended:
            parts.pipeline.flush()
        exam, evidence = parts.buffer.rows(Split.EXAM), parts.evidence()
        in_use = parts.pipeline.detector
        detectors = {in_use.model: in_use}
        for model in (*parts.assigned(), *parts.machine.facts.rungs):
            if model not in detectors and model.digest in parts.memory.models:
                weights = parts.memory.models[model.digest].weights
                detectors[model] = calibrated(model, weights, evidence, parts.engine)
        known = exam.start_us[exam.y >= 0]
        report = EvaluationReport(
            device_id=parts.config.device.id,
            run_id=run_id,
            scores=tuple(score_exam(detector, exam) for detector in detectors.values()),
            active=in_use.model,
            exam_rows=len(known),
            exam_benign_s=parts.pipeline.exam_seconds,
            first_us=int(known.min()) if len(known) else 0,
            last_us=int(known.max()) if len(known) else 0,
            note="" if parts.pipeline.ended else "the capture had not ended",
        )
        log.info("event=evaluated run=%s exam_rows=%d models=%d", run_id, len(known), len(detectors))
        parts.post.replace("report", REPORT, f"report-{run_id}", report)


def _still_active(parts: Parts) -> ActiveModel | None:
    """Return what to report at the first connect: the model that the last process used, if there is one."""
    facts, detector = parts.restored.facts, parts.pipeline.detector
    if facts.active is None:
        return None
    return ActiveModel(
        device_id=parts.config.device.id,
        assignment_version=facts.assignment.version if facts.assignment is not None else 0,
        active=detector.model,
        reason="restored",
        threshold=detector.calibration.threshold,
        validation_rows=facts.calibrated_rows or 0,
    )
