"""Alerts as Suricata EVE JSON: names and nesting are Suricata's, ours live under ``kinwatch``."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from contract.ids import DeviceId, Digest, FamilyId
from contract.messages.base import Count, Encoding, Message, Real
from contract.model import Role


class EveSignature(Message):
    """The ``alert`` object. ``signature_id`` is 9,000,000 plus the class index; severity 1 is the worst."""

    action: Literal["allowed"] = "allowed"
    gid: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1
    signature_id: int = Field(ge=0, le=2**31)
    rev: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1
    signature: str = Field(max_length=160)
    category: str = Field(max_length=80)
    severity: int = Field(ge=1, le=4)


class EveFlow(Message):
    """The ``flow`` object: counts toward the server are those of the initiator."""

    pkts_toserver: Count
    pkts_toclient: Count
    bytes_toserver: Count
    bytes_toclient: Count
    start: str = Field(max_length=40)


class EveKinwatch(Message):
    """What only Kinwatch knows.

    Attributes
    ----------
    score, threshold
        Higher = worse; the alert fired because ``score >= threshold``.
    attack_class
        Class name of the taxonomy, or ``anomaly`` when the reconstruction alone fired.
    model, role, family_id
        Digest, role and family of the model that judged.
    top_features
        Names of the features that drove the score, strongest first.
    repeats
        Alerts of the same kind that were left out since the last one.
    """

    device_id: DeviceId
    score: Real
    threshold: Real
    attack_class: str = Field(max_length=32)
    model: Digest
    role: Role
    family_id: FamilyId | None = None
    top_features: tuple[Annotated[str, Field(max_length=64)], ...] = Field(default=(), max_length=8)
    repeats: Count = 0


class EveAlert(Message):
    """One alert line."""

    encoding: ClassVar[Encoding] = "json"
    timestamp: str = Field(max_length=40)
    flow_id: Count
    event_type: Literal["alert"] = "alert"
    src_ip: str = Field(max_length=45)
    src_port: int = Field(ge=0, le=65_535)
    dest_ip: str = Field(max_length=45)
    dest_port: int = Field(ge=0, le=65_535)
    proto: str = Field(max_length=16)
    alert: EveSignature
    flow: EveFlow
    kinwatch: EveKinwatch
