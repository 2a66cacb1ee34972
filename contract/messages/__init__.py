"""The messages, by subject. Frozen pydantic models are the one source of the schema."""

from contract.messages.alerts import EveAlert, EveFlow, EveKinwatch, EveSignature
from contract.messages.base import Message
from contract.messages.delivery import ActiveModel, Assignment, Epoch, Release
from contract.messages.fleet import Birth, DeviceState, GatewayState, Status, Telemetry, Versions
from contract.messages.learning import (
    Decline,
    EvaluationReport,
    EvaluationRequest,
    LossReport,
    ModelLoss,
    ModelScore,
    ModelUpdate,
    Receipt,
    RoundTask,
    Signature,
    TrainTarget,
)
from contract.messages.transfer import BlobChunk, BlobOffer, BlobRequest
from contract.messages.truth import Coverage, MarkRule, MarkSet, RunCommand, Verdict

__all__ = [
    "ActiveModel",
    "Assignment",
    "Birth",
    "BlobChunk",
    "BlobOffer",
    "BlobRequest",
    "Coverage",
    "Decline",
    "DeviceState",
    "Epoch",
    "EvaluationReport",
    "EvaluationRequest",
    "EveAlert",
    "EveFlow",
    "EveKinwatch",
    "EveSignature",
    "GatewayState",
    "LossReport",
    "MarkRule",
    "MarkSet",
    "Message",
    "ModelLoss",
    "ModelScore",
    "ModelUpdate",
    "Receipt",
    "Release",
    "RoundTask",
    "RunCommand",
    "Signature",
    "Status",
    "Telemetry",
    "TrainTarget",
    "Verdict",
    "Versions",
]
