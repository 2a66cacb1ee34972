"""What the agent core hears (events, in the past tense) and what it asks for (effects, imperative)."""

from dataclasses import dataclass
from typing import Literal

from contract.messages import (
    Assignment,
    DeviceState,
    EvaluationRequest,
    GatewayState,
    MarkSet,
    Receipt,
    RoundTask,
    RunCommand,
    TrainTarget,
    Verdict,
)
from contract.model import ModelId, ReleaseManifest

JobKind = Literal["round", "first", "fine-tuned", "local", "sketch"]
"""What a training is for: a round, the device's own first model, a rung of the ladder, the signature's sketch."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training job.

    Attributes
    ----------
    key
        Unique in the life of the process.
    task, target
        The round's task and which of its targets; ``None`` for trainings of the device's own.
    base
        Digest of the model to start from.
    kind
        What it is for.
    own_classes
        Whether a fine-tuning says nothing about classes that the device has not seen.
    """

    key: str
    base: str
    task: RoundTask | None = None
    target: TrainTarget | None = None
    kind: JobKind = "round"
    own_classes: bool = False

    @property
    def update_id(self) -> str:
        """Idempotency key of the update that comes out; empty for the device's own model."""
        if self.task is None or self.target is None:
            return ""
        return f"{self.task.round_id}-{self.task.device_id}-{self.target.role}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the core must know after a restart.

    Attributes
    ----------
    trained
        Fingerprints of tasks whose updates were all made, newest last.
    assignment
        The newest one seen.
    active
        The model in use.
    locally_trained
        Whether the device made its own first model.
    calibrated_rows
        Validation rows behind the present threshold, ``None`` before the first calibration.
    signature_sequence
        Number of the last signature.
    signed_rows
        Benign rows behind the last signature.
    commands
        ``run/sequence`` of commands acted on, newest last.
    rungs
        The fine-tuned and the local model, as far as they were made.
    tuned_base, tuned_version, tuned_own_classes
        What the fine-tuned model was last made from, under which assignment, and whether over the own classes alone.
    local_rows
        Training rows behind the local model, 0 before the first.
    rung_since
        Version of the assignment under which the rung in use was taken.
    sketched
        Digest of the anchor that the sketch was made at.
    asked
        Number of the last evaluation request.
    private
        Whether the gateway works in private mode.
    """

    trained: tuple[str, ...] = ()
    assignment: Assignment | None = None
    active: ModelId | None = None
    locally_trained: bool = False
    calibrated_rows: int | None = None
    signature_sequence: int = 0
    signed_rows: int = 0
    commands: tuple[str, ...] = ()
    rungs: tuple[ModelId, ...] = ()
    tuned_base: str = ""
    tuned_version: int = 0
    tuned_own_classes: bool = False
    local_rows: int = 0
    rung_since: int = 0
    sketched: str = ""
    asked: int = -1
    private: bool = False


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted the connection; subscriptions of the device's own topics stand."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The broker is gone."""


@dataclass(frozen=True, slots=True)
class GatewaySeen:
    """The gateway said whether it listens."""

    state: GatewayState


@dataclass(frozen=True, slots=True)
class TaskReceived:
    """A round task, possibly for the second time."""

    task: RoundTask


@dataclass(frozen=True, slots=True)
class TaskCleared:
    """The retained task was cleared: the round is over."""


@dataclass(frozen=True, slots=True)
class AssignmentReceived:
    """Which models the device shall hold."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class ReleaseReceived:
    """A release came in and was checked: ``manifest`` if it is good, else ``refusal``."""

    digest: str
    manifest: ReleaseManifest | None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class ReceiptReceived:
    """The gateway's word on an update."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class TrainingFinished:
    """A training job is done; the shell holds the result."""

    job_key: str


@dataclass(frozen=True, slots=True)
class TrainingFailed:
    """A training job gave no result."""

    job_key: str
    reason: str


@dataclass(frozen=True, slots=True)
class RowsCounted:
    """State of the sample buffer.

    Attributes
    ----------
    benign, train, validation
        Benign training rows, all training rows, validation rows.
    baseline_open
        Whether the baseline window still runs.
    attacks
        Validation rows of attacks.
    classes
        Classes with enough training rows to be known.
    """

    benign: int
    train: int
    validation: int
    baseline_open: bool
    attacks: int = 0
    classes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class MarksReceived:
    """Ground truth of a test harness."""

    marks: MarkSet


@dataclass(frozen=True, slots=True)
class CommandReceived:
    """A command of a test harness."""

    command: RunCommand


@dataclass(frozen=True, slots=True)
class VerdictReceived:
    """An operator's word on an alert."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class ModelChosen:
    """The shell checked, compared and calibrated what it was asked to; ``active`` is ready for use.

    Attributes
    ----------
    request
        Number of the :class:`ChooseModel` that this answers.
    """

    request: int
    active: ModelId


@dataclass(frozen=True, slots=True)
class ModelUnfit:
    """A candidate failed its self check."""

    request: int
    digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class RungMade:
    """The shell checked and kept the result of a rung's training; ``None`` if it is not fit for use."""

    model: ModelId | None


@dataclass(frozen=True, slots=True)
class EvaluationAsked:
    """The gateway wants to know how some models do here."""

    request: EvaluationRequest


@dataclass(frozen=True, slots=True)
class TrafficDrifted:
    """Benign traffic no longer looks as it did in training; said once when it begins."""


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """Why the device is degraded; empty when it is well."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time went by."""


Event = (
    Connected
    | Disconnected
    | GatewaySeen
    | TaskReceived
    | TaskCleared
    | AssignmentReceived
    | ReleaseReceived
    | ReceiptReceived
    | TrainingFinished
    | TrainingFailed
    | RowsCounted
    | MarksReceived
    | CommandReceived
    | VerdictReceived
    | ModelChosen
    | ModelUnfit
    | RungMade
    | EvaluationAsked
    | TrafficDrifted
    | HealthChanged
    | Ticked
)


# --- effects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SubscribeModel:
    """Ask the broker for the release under a digest."""

    digest: str


@dataclass(frozen=True, slots=True)
class UnsubscribeModel:
    """The release under a digest is no longer wanted."""

    digest: str


@dataclass(frozen=True, slots=True)
class HoldModel:
    """Keep the release that was just verified."""

    digest: str


@dataclass(frozen=True, slots=True)
class DropModel:
    """Forget a model."""

    digest: str


@dataclass(frozen=True, slots=True)
class StartTraining:
    """Train; at most one job runs at a time."""

    job: Job
    seconds_left: float


@dataclass(frozen=True, slots=True)
class CancelTraining:
    """Stop the running job; its result is not wanted."""

    job_key: str


@dataclass(frozen=True, slots=True)
class SendUpdate:
    """Put the result of a job into the outbox."""

    job: Job


@dataclass(frozen=True, slots=True)
class DeclineTask:
    """Tell the gateway that no further update of a round will come from here."""

    round_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ResendUpdate:
    """Send an update of the outbox once more."""

    update_id: str


@dataclass(frozen=True, slots=True)
class SettleUpdate:
    """The gateway answered: forget the update."""

    update_id: str


@dataclass(frozen=True, slots=True)
class AdoptLocal:
    """Check and calibrate the result of the device's own training; answer like :class:`ChooseModel`."""

    job: Job
    request: int


@dataclass(frozen=True, slots=True)
class ChooseModel:
    """Check, compare and calibrate; answer with ModelChosen or ModelUnfit under the same request number.

    Attributes
    ----------
    fallback, expert
        Held candidates; neither: calibrate the model in use anew.
    reason
        What to report when there is nothing to compare.
    rungs
        The device's own candidates beside them.
    step, rounds
        Rung in use, empty if it is none, and rounds since it was taken.
    """

    request: int
    fallback: ModelId | None
    expert: ModelId | None
    reason: str
    rungs: tuple[ModelId, ...] = ()
    step: str = ""
    rounds: int = 0


@dataclass(frozen=True, slots=True)
class KeepRung:
    """Check and keep the result of a rung's training; answer with RungMade."""

    job: Job


@dataclass(frozen=True, slots=True)
class KeepSketch:
    """Keep the sketch of what a training changed; the next signature carries it."""

    job: Job


@dataclass(frozen=True, slots=True)
class ReportLosses:
    """Measure these held models on the validation rows and tell the gateway; ``refusal`` if that cannot be done."""

    request: EvaluationRequest
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class SwapModel:
    """Use this model from now on and publish it as active."""

    active: ModelId
    request: int
    assignment_version: int


@dataclass(frozen=True, slots=True)
class SendSignature:
    """Publish the traffic signature under this sequence number.

    Attributes
    ----------
    moments_only
        Tell nothing of attacks and updates: private mode.
    """

    sequence: int
    moments_only: bool = False


@dataclass(frozen=True, slots=True)
class AnnounceDevice:
    """Publish birth and what is active."""


@dataclass(frozen=True, slots=True)
class PublishStatus:
    """Publish the state of the device."""

    state: DeviceState
    reason: str


@dataclass(frozen=True, slots=True)
class ApplyMarks:
    """Label by these marks."""

    marks: MarkSet


@dataclass(frozen=True, slots=True)
class ApplyVerdict:
    """Label the flow of an alert by an operator's word."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Measure all held models on the exam rows and report."""

    run_id: str


@dataclass(frozen=True, slots=True)
class SaveFacts:
    """Keep what must survive a restart."""

    facts: Facts


@dataclass(frozen=True, slots=True)
class Refuse:
    """Count a refusal; ``kind`` tells whether a peer or our own side is the cause."""

    reason: str
    kind: Literal["peer", "own"] = "peer"


Effect = (
    SubscribeModel
    | UnsubscribeModel
    | HoldModel
    | DropModel
    | StartTraining
    | CancelTraining
    | SendUpdate
    | DeclineTask
    | ResendUpdate
    | SettleUpdate
    | AdoptLocal
    | ChooseModel
    | KeepRung
    | KeepSketch
    | ReportLosses
    | SwapModel
    | SendSignature
    | AnnounceDevice
    | PublishStatus
    | ApplyMarks
    | ApplyVerdict
    | Evaluate
    | SaveFacts
    | Refuse
)
