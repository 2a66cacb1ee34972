"""What the agent core knows and keeps over a restart, and the training jobs that it gives out."""

from dataclasses import dataclass
from typing import Literal

from contract.messages import Assignment, RoundTask, TrainTarget
from contract.model import ModelId

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
