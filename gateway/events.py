"""Events and effects of the machine that joins registry, rounds and families."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from contract.messages import ActiveModel, Assignment, EvaluationReport, EveAlert, Message, RoundTask
from gateway.families import FamilyEffect
from gateway.grouping import Grouping, Prototype, Vector
from gateway.registry import RegistryEffect
from gateway.rounds import RoundEffect, TargetResult
from gateway.upkeep import AskLosses


@dataclass(frozen=True, slots=True)
class Head:
    """Current model of a target: digest and Euclidean norm of its weights."""

    digest: str
    norm: float


@dataclass(frozen=True, slots=True)
class PeerSaid:
    """A decoded message came on the topic of ``device_id``."""

    device_id: str
    message: Message


@dataclass(frozen=True, slots=True)
class SessionUp:
    """The connection to the broker is up."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """Look at the clock."""


@dataclass(frozen=True, slots=True)
class RoundStored:
    """Results of a closing round and the heads after it are stored."""

    number: int
    results: tuple[TargetResult, ...]
    heads: Mapping[str, Head]


@dataclass(frozen=True, slots=True, eq=False)
class SearchFinished:
    """The search for families after a round came back.

    Attributes
    ----------
    separation
        Of the living families among the signatures as they are now, ``None`` if it was not measured.
    """

    grouping: Grouping
    number: int
    separation: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceConfined:
    """A device is in quarantine for so many seconds: it is neither heard nor waited for."""

    device_id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Announce:
    """Say that the gateway is online."""


@dataclass(frozen=True, slots=True)
class PublishRelease:
    """Retain the release of a model."""

    digest: str


@dataclass(frozen=True, slots=True)
class ClearRelease:
    """Take a superseded release from the broker; the store keeps it."""

    digest: str


@dataclass(frozen=True, slots=True)
class Assign:
    """Store the assignment, then retain it."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Republish:
    """Retain stored assignments and tasks again; take back the tasks of the devices in ``without_task``."""

    assignments: tuple[Assignment, ...]
    tasks: tuple[RoundTask, ...]
    without_task: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FindFamilies:
    """Search, and answer ``SearchFinished``."""

    vectors: Mapping[str, Vector]
    flows: Mapping[str, int]
    earlier: Mapping[str, frozenset[str]]
    number: int
    prototypes: Mapping[str, Mapping[str, Prototype]] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DropHead:
    """Forget the head of a family that ended."""

    target: str


@dataclass(frozen=True, slots=True)
class KeepAlert:
    """Keep an alert for the operator."""

    alert: EveAlert


@dataclass(frozen=True, slots=True)
class KeepFamilies:
    """Note that families were looked at again and stay as they are; ``reason`` says why."""

    reason: str
    number: int


@dataclass(frozen=True, slots=True)
class StoreReported:
    """Store what a device reports: the model in use, or an evaluation."""

    message: ActiveModel | EvaluationReport


Event = PeerSaid | SessionUp | Ticked | RoundStored | SearchFinished | DeviceConfined
Effect = (
    RegistryEffect
    | RoundEffect
    | FamilyEffect
    | Announce
    | PublishRelease
    | ClearRelease
    | Assign
    | Republish
    | FindFamilies
    | DropHead
    | KeepFamilies
    | AskLosses
    | StoreReported
    | KeepAlert
)
