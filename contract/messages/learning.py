"""Learning: traffic signatures, round tasks, model updates and their receipts, evaluation reports."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from contract.ids import DeviceId, Digest, FamilyId, RoundId, RunId
from contract.messages.base import Count, Message, Micros, Real, Slug, Text
from contract.model import MAX_PARAMETERS, ModelId, Role

MAX_UPDATE_BYTES = 4 * MAX_PARAMETERS
DeltaEncoding = Literal["float32", "q8"]
ClassName = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")]


class Signature(Message):
    """The traffic signature of a device: moments of its benign flows under the fixed transform.

    ``contract.signatures`` packs and unpacks the byte strings.

    Attributes
    ----------
    sequence
        Grows with every signature of a device; an older one is ignored.
    flows
        Benign flows behind the moments.
    mean
        Little-endian float16, one value per feature of the schema: trimmed mean.
    log_std
        One byte per feature: natural logarithm of the standard deviation plus 1e-3, as ``0.5 - byte / 32``.
    class_rows
        Labelled training rows per class in taxonomy order, counts only; empty if they are not told.
    prototypes
        By attack class with enough rows: int8 per feature, mean of the class's rows minus the benign mean, in units of
        ``SPAN / 127``.
    sketch
        Int8, 64 values: seeded projection of what one epoch changes at the anchor model, of length 127.
    anchor
        First 16 hexadecimal digits of the digest of the anchor; sketches of one anchor can be compared.
    noise
        Noise multiplier of the Gaussian noise in the moments, ``None`` without noise.
    """

    max_bytes = 1_024

    device_id: DeviceId
    schema_id: Digest
    sequence: Count
    flows: Count
    mean: bytes = Field(max_length=2_048)
    log_std: bytes = Field(max_length=1_024)
    class_rows: tuple[Count, ...] = Field(default=(), max_length=64)
    prototypes: dict[ClassName, Annotated[bytes, Field(max_length=1_024)]] = Field(default_factory=dict, max_length=64)
    sketch: bytes | None = Field(default=None, min_length=64, max_length=64)
    anchor: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}$")
    noise: Real | None = Field(default=None, gt=0.0, le=1_000.0)


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
    delta_encoding
        Form of the delta that is wanted: ``float32``, or ``q8`` (``contract.quantise``), a quarter of its bytes.
    deadline_s
        Seconds from when the gateway opened the round; a device counts from receipt, so it never works longer.
    clip_norm, noise_multiplier
        Private mode: the device shortens its update to this Euclidean norm and adds Gaussian noise of standard
        deviation ``noise_multiplier * clip_norm`` to each value; both ``None`` otherwise.
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
    delta_encoding: DeltaEncoding = "float32"
    deadline_s: Real = Field(gt=0.0, le=86_400.0)
    clip_norm: Real | None = Field(default=None, gt=0.0, le=1e6)
    noise_multiplier: Real | None = Field(default=None, gt=0.0, le=1_000.0)

    @model_validator(mode="after")
    def _privacy_is_whole(self) -> "RoundTask":
        if (self.clip_norm is None) != (self.noise_multiplier is None):
            raise ValueError("clip_norm and noise_multiplier belong together")
        return self


class ModelUpdate(Message):
    """What a device learned for one target: the difference to the base.

    Attributes
    ----------
    update_id
        ``<round>-<device>-<role>``; the same id is counted once, however often it arrives.
    delta_encoding
        Form of ``delta``; that of the task.
    delta
        ``theta - base``: little-endian float32, or ``q8``.
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
    delta_encoding: DeltaEncoding = "float32"
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


class EvaluationRequest(Message):
    """A question to a device: how these models do on its validation rows.

    Attributes
    ----------
    request
        Grows with every request of a device; an older one is ignored.
    models
        Released models; the first is the one that the others are compared with.
    """

    device_id: DeviceId
    request: Count
    models: tuple[ModelId, ...] = Field(min_length=1, max_length=4)


class ModelLoss(Message):
    """Mean loss of a model, and what it saves against the first of the request.

    Attributes
    ----------
    loss
        Weighted mean over the validation rows, >= 0.
    gain, z
        Share of the first model's loss that it saves, and the paired z of that; 0 for the first.
    """

    model: ModelId
    loss: Real = Field(ge=0.0)
    gain: Real
    z: Real = Field(ge=-99.0, le=99.0)


class LossReport(Message):
    """The answer to an ``EvaluationRequest``: counts and losses, no row.

    Attributes
    ----------
    request
        Of the question.
    rows
        Validation rows behind the losses.
    reason
        ``measured``, or why there is nothing: ``few-rows``, ``model-refused``.
    losses
        In the order of the request; empty unless measured.
    """

    device_id: DeviceId
    request: Count
    rows: Count
    reason: Slug
    losses: tuple[ModelLoss, ...] = Field(default=(), max_length=4)


__all__ = [
    "Decline",
    "EvaluationReport",
    "EvaluationRequest",
    "LossReport",
    "ModelLoss",
    "ModelScore",
    "ModelUpdate",
    "Receipt",
    "Role",
    "RoundTask",
    "Signature",
    "TrainTarget",
]
