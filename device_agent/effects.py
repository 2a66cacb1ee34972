"""What the agent core asks its shell for, in the imperative; what it hears is in ``device_agent.events``."""

from dataclasses import dataclass
from typing import Literal

from contract.messages import DeviceState, EvaluationRequest, MarkSet, Verdict
from contract.model import ModelId
from device_agent.facts import Facts, Job


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
