"""What the agent core hears, in the past tense; what it asks for is in ``device_agent.effects``."""

from dataclasses import dataclass

from contract.messages import (
    Assignment,
    EvaluationRequest,
    GatewayState,
    MarkSet,
    Receipt,
    RoundTask,
    RunCommand,
    Verdict,
)
from contract.model import ModelId, ReleaseManifest


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
