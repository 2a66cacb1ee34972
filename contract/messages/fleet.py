"""Who is there and how they are: birth, status, telemetry, the gateway's state."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from contract.ids import DeviceId, Digest
from contract.messages.base import Count, Encoding, Message, Real, Slug, Text

DeviceState = Literal["init", "ready", "training", "degraded", "disconnected", "lost"]


class Birth(Message):
    """What a device is; retained, sent on every connect.

    Attributes
    ----------
    session
        Random id of the agent process; a new one means a restart.
    contract_version, agent_version
        ``major.minor`` of the contract, and the package version.
    board, system, python
        Board name, operating system and Python version.
    engine
        ``litert`` or ``numpy``, and why in ``engine_reason``.
    schema_id, spec_id
        Feature schema and model spec the device works with.
    """

    encoding: ClassVar[Encoding] = "json"
    device_id: DeviceId
    session: Slug
    contract_version: str = Field(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$")
    agent_version: str = Field(max_length=40)
    board: str = Field(max_length=80)
    system: str = Field(max_length=120)
    python: str = Field(max_length=20)
    engine: Slug
    engine_reason: Text = ""
    schema_id: Digest
    spec_id: Digest


class Status(Message):
    """How a device is; retained. The broker publishes ``lost`` for a device that vanished (last will)."""

    encoding: ClassVar[Encoding] = "json"
    device_id: DeviceId
    session: Slug
    state: DeviceState
    reason: Text = ""


class Telemetry(Message):
    """Counters of a device since its process started, and gauges.

    Attributes
    ----------
    capture_state
        ``starting``, ``running``, ``ended`` or ``failed``.
    packets, ignored_packets, dropped_packets
        Metered, ignored with a reason, and lost (kernel or queue).
    flows, alerts, suppressed_alerts
        Flow records judged, alerts written, duplicates left out.
    train_rows, validation_rows, exam_rows
        Rows in the sample buffer.
    outbox
        Messages that wait for the gateway.
    rss_bytes, trainer_rss_bytes
        Resident memory of the agent and of its trainer process; 0 where unknown.
    counters
        Refusals and drops by reason.
    drifted_features
        Features of benign flows that no longer look as they did in training, worst first; at most eight.
    """

    encoding: ClassVar[Encoding] = "json"
    device_id: DeviceId
    session: Slug
    uptime_s: Real
    capture_state: Slug
    capture_time_us: Count = 0
    packets: Count = 0
    ignored_packets: Count = 0
    dropped_packets: Count = 0
    flows: Count = 0
    alerts: Count = 0
    suppressed_alerts: Count = 0
    train_rows: Count = 0
    validation_rows: Count = 0
    exam_rows: Count = 0
    outbox: Count = 0
    rss_bytes: Count = 0
    trainer_rss_bytes: Count = 0
    counters: dict[Annotated[str, Field(max_length=64)], Count] = Field(default_factory=dict, max_length=256)
    drifted_features: tuple[Annotated[str, Field(max_length=64)], ...] = Field(default=(), max_length=8)


class GatewayState(Message):
    """Whether a gateway listens; retained, with a last will that says it does not.

    Attributes
    ----------
    mode
        ``robust``: the gateway screens single updates; ``private``: devices add noise to what they send.
    """

    encoding: ClassVar[Encoding] = "json"
    online: bool
    mode: Literal["robust", "private"] = "robust"
    session: Slug
    contract_version: str = Field(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$")
    gateway_version: str = Field(max_length=40)


class Versions(Message):
    """Which majors of the contract the gateway speaks; retained outside the versioned tree, so that all can read it.

    Attributes
    ----------
    majors
        Supported majors, newest first.
    gateway_version
        Package version of the gateway, for the person who must update one of the two.
    """

    encoding: ClassVar[Encoding] = "json"
    max_bytes: ClassVar[int] = 4_096
    majors: tuple[Annotated[int, Field(ge=0, le=999)], ...] = Field(min_length=1, max_length=16)
    gateway_version: str = Field(max_length=40)
