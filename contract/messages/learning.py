"""Learning: traffic signatures, round tasks, model updates and their receipts, evaluation reports."""

from typing import Annotated, Literal

from pydantic import Field

from contract.ids import DeviceId, Digest, FamilyId, RoundId, RunId
from contract.messages.base import Count, Message, Micros, Real, Slug, Text
from contract.model import MAX_PARAMETERS, ModelId, Role

MAX_UPDATE_BYTES = 4 * MAX_PARAMETERS
ClassName = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")]


class Signature(Message):
    """The traffic signature of a device: moments of its benign flows under the fixed transform.

    Attributes
    ----------
    sequence
        Grows with every signature of a device; an older one is ignored.
    flows
        Benign flows behind the moments.
    mean, log_std
        Little-endian float16, one value per feature of the schema: trimmed mean, and natural logarithm of the
        standard deviation plus 1e-3.
    class_rows
        Labelled training rows per class; counts only.
    prototypes
        By attack class with enough rows: int8 per feature, mean of the class's rows minus the benign mean, in units of
        ``SPAN / 127``.
    """

    device_id: DeviceId
    schema_id: Digest
    sequence: Count
    flows: Count
    mean: bytes = Field(max_length=2_048)
    log_std: bytes = Field(max_length=2_048)
    class_rows: dict[ClassName, Count] = Field(default_factory=dict, max_length=64)
    prototypes: dict[ClassName, Annotated[bytes, Field(max_length=1_024)]] = Field(default_factory=dict, max_length=64)


class TrainTarget(Message):
    """One model that a device shall train in a round."""

    role: Literal["fallback", "expert"]
    family_id: FamilyId | None = None
    base: Digest


class RoundTask(Message):
    """What a device shall do in a round; retained until the round ends, then cleared.

    Attributes
    ----------
    targets
        Models to train, each from its base.
    local_epochs, learning_rate, proximal_mu, recon_weight
        Settings of the local training.
    seed
        Seed of the round; the device mixes in its id.
    deadline_s
        Seconds from when the gateway opened the round; a device counts from receipt, so it never works longer.
    """

    round_id: RoundId
    round_number: int = Field(ge=0, le=999_999)
    device_id: DeviceId
    spec_id: Digest
    targets: tuple[TrainTarget, ...] = Field(min_length=1, max_length=4)
    local_epochs: int = Field(ge=1, le=100)
    learning_rate: Real = Field(gt=0.0, le=1.0)
    proximal_mu: Real = Field(ge=0.0, le=100.0)
    recon_weight: Real = Field(ge=0.0, le=100.0)
    seed: Count
    deadline_s: Real = Field(gt=0.0, le=86_400.0)


class ModelUpdate(Message):
    """What a device learned for one target: the difference to the base.

    Attributes
    ----------
    update_id
        ``<round>-<device>-<role>``; the same id is counted once, however often it arrives.
    delta
        Little-endian float32, ``theta - base``.
    delta_digest
        SHA-256 of ``delta``.
    rows
        Training rows used.
    rows_by_source
        Rows by where their label came from (``mark``, ``baseline``, ``verdict``, ``none``); counts only.
    loss_before, loss_after
        Mean validation loss of base and result on the device; ``None`` without validation rows.
    train_seconds
        CPU seconds spent.
    """

    max_bytes = MAX_UPDATE_BYTES + 4_096

    update_id: str = Field(pattern=r"^round-[0-9]{6}-[a-z0-9-]{1,32}-(fallback|expert)$")
    round_id: RoundId
    device_id: DeviceId
    role: Literal["fallback", "expert"]
    family_id: FamilyId | None = None
    spec_id: Digest
    base: Digest
    delta: bytes = Field(max_length=MAX_UPDATE_BYTES)
    delta_digest: Digest
    rows: Count
    rows_by_source: dict[Slug, Count] = Field(default_factory=dict, max_length=16)
    loss_before: Real | None = None
    loss_after: Real | None = None
    train_seconds: Real = Field(ge=0.0)


class Decline(Message):
    """A device's answer to a round task that it will not finish: no further update for this round is to be waited for.

    An update that arrives all the same, from a device that got rows or came back, counts as long as the round is open.

    Attributes
    ----------
    reason
        Why, such as ``training-no-rows`` or ``training-out-of-memory``.
    """

    round_id: RoundId
    device_id: DeviceId
    reason: Slug


class Receipt(Message):
    """The gateway's word on a message with an idempotency key: stored, or refused and why.

    A device keeps an update in its outbox until a receipt names it; both answers end its life there.
    """

    device_id: DeviceId
    key: str = Field(max_length=120)
    accepted: bool
    reason: Slug


class ModelScore(Message):
    """How one model does on the exam rows of a device.

    Attributes
    ----------
    model
        Which one.
    confusion
        Rows = truth, columns = class of highest probability, in taxonomy order.
    alerted
        Exam rows of each true class whose score reached the threshold, in taxonomy order.
    """

    model: ModelId
    confusion: tuple[Annotated[tuple[Count, ...], Field(max_length=256)], ...] = Field(max_length=256)
    alerted: tuple[Count, ...] = Field(max_length=256)


class EvaluationReport(Message):
    """What a device measured on its exam rows; no training row is among them.

    Attributes
    ----------
    scores
        One entry per model the device holds.
    active
        The model in use.
    exam_rows
        Labelled exam rows.
    exam_benign_s
        Packet time covered by exam windows, for false alarms per hour.
    """

    device_id: DeviceId
    run_id: RunId
    scores: tuple[ModelScore, ...] = Field(max_length=8)
    active: ModelId
    exam_rows: Count
    exam_benign_s: Real = Field(ge=0.0)
    first_us: Micros = 0
    last_us: Micros = 0
    note: Text = ""


__all__ = [
    "Decline",
    "EvaluationReport",
    "ModelScore",
    "ModelUpdate",
    "Receipt",
    "Role",
    "RoundTask",
    "Signature",
    "TrainTarget",
]
