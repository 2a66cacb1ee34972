"""What the harness knows of a fleet: a pure fold over the messages it hears."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from contract import topics
from contract.codec import decode
from contract.errors import ContractError
from contract.messages import (
    ActiveModel,
    Assignment,
    Birth,
    EvaluationReport,
    EveAlert,
    GatewayState,
    Message,
    ModelUpdate,
    Receipt,
    Release,
    RoundTask,
    Signature,
    Status,
    Telemetry,
)

if TYPE_CHECKING:
    from contract.model import ReleaseManifest

CounterName = Literal["packets", "ignored_packets", "dropped_packets", "flows", "alerts", "suppressed_alerts"]


@dataclass(slots=True)
class DeviceView:
    """The last word of one device on each subject.

    Attributes
    ----------
    sessions
        Ids of its agent processes in order of appearance; more than one = it was restarted.
    reports
        Evaluation reports by run id, the newest.
    alerts
        Alerts by class.
    rss_peak_bytes, trainer_rss_peak_bytes
        Largest resident memory it told of.
    last_of_session
        The newest telemetry of each agent process.
    """

    device_id: str
    birth: Birth | None = None
    status: Status | None = None
    telemetry: Telemetry | None = None
    signature: Signature | None = None
    assignment: Assignment | None = None
    active: ActiveModel | None = None
    sessions: list[str] = field(default_factory=list)
    reports: dict[str, EvaluationReport] = field(default_factory=dict)
    report_count: int = 0
    alerts: Counter[str] = field(default_factory=Counter)
    rss_peak_bytes: int = 0
    trainer_rss_peak_bytes: int = 0
    last_of_session: dict[str, Telemetry] = field(default_factory=dict)

    def total(self, counter: CounterName) -> int:
        """Return a counter over all agent processes of the device; each process counts from 0."""
        return sum(int(getattr(told, counter)) for told in self.last_of_session.values())

    @property
    def online(self) -> bool:
        """Whether the agent is connected and can work."""
        return self.status is not None and self.status.state in {"ready", "training", "degraded"}

    @property
    def capture_state(self) -> str:
        """State of its capture, ``starting`` before any telemetry of the current process."""
        if self.telemetry is None or (self.birth is not None and self.telemetry.session != self.birth.session):
            return "starting"
        return self.telemetry.capture_state

    @property
    def follows_assignment(self) -> bool:
        """Whether it has said which model it uses under its newest assignment: one of that, or one of its own."""
        if self.assignment is None or self.active is None:
            return False
        offered = {m.digest for m in (self.assignment.expert, self.assignment.fallback) if m is not None}
        own = self.active.active.role in ("fine-tuned", "local")
        return self.active.assignment_version >= self.assignment.version and (
            own or self.active.active.digest in offered
        )


@dataclass(frozen=True, slots=True)
class UpdateView:
    """What one update told of its training: losses are means over the device's validation rows."""

    device_id: str
    role: str
    family_id: str | None
    rows: int
    loss_before: float | None
    loss_after: float | None
    train_seconds: float


@dataclass(slots=True)
class RoundView:
    """One round as it looked from outside.

    Attributes
    ----------
    opened_s, closed_s
        When the first task and the first release were heard, seconds on the harness' clock.
    invited
        Devices that got a task.
    updates
        By update id, so that a repeated update counts once.
    released
        Digests of the models that came out.
    """

    number: int
    opened_s: float
    closed_s: float | None = None
    invited: set[str] = field(default_factory=set)
    updates: dict[str, UpdateView] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)


class FleetView:
    """Everything heard so far; :meth:`hear` is the only way in."""

    def __init__(self) -> None:
        self.devices: dict[str, DeviceView] = {}
        self.gateway: GatewayState | None = None
        self.gateway_sessions: list[str] = []
        self.releases: dict[str, ReleaseManifest] = {}
        self.rounds: dict[int, RoundView] = {}
        self.refused: Counter[str] = Counter()
        self.receipts_refused: Counter[str] = Counter()

    def device(self, device_id: str) -> DeviceView:
        """Return the view of a device, an empty one if it was never heard of."""
        return self.devices.setdefault(device_id, DeviceView(device_id))

    def hear(self, topic: str, payload: bytes, now_s: float) -> None:
        """Take in one message; what cannot be read is counted in ``refused`` by its reason.

        Parameters
        ----------
        topic, payload
            As received; an empty payload clears a retained message and tells nothing.
        now_s
            Monotonic time, seconds.
        """
        if not payload:
            return
        try:
            parsed = topics.parse(topic)
            message = decode(parsed.topic.message, payload)
        except ContractError as error:
            self.refused[error.reason] += 1
            return
        claimed = getattr(message, "device_id", parsed.device_id)
        if parsed.device_id is not None and claimed != parsed.device_id:
            self.refused["foreign-device"] += 1
            return
        if isinstance(message, GatewayState):
            self.gateway = message
            _append_new(self.gateway_sessions, message.session)
        elif isinstance(message, Release):
            self._hear_release(message, now_s)
        elif parsed.device_id is not None:
            self._hear_device(self.device(parsed.device_id), message, now_s)

    @property
    def rounds_completed(self) -> int:
        """Number of the newest round that released a fallback; 0 before the first."""
        return max((m.round_number for m in self.releases.values() if m.role == "fallback"), default=0)

    @property
    def families(self) -> dict[str, list[str]]:
        """Family id to its devices, by the newest assignments; devices without a family are left out."""
        result: dict[str, list[str]] = {}
        for view in sorted(self.devices.values(), key=lambda v: v.device_id):
            if view.assignment is not None and view.assignment.family_id is not None:
                result.setdefault(view.assignment.family_id, []).append(view.device_id)
        return result

    def _round(self, number: int, now_s: float) -> RoundView:
        return self.rounds.setdefault(number, RoundView(number, now_s))

    def _hear_release(self, message: Release, now_s: float) -> None:
        manifest = message.manifest
        if manifest.weights_digest in self.releases:
            return
        self.releases[manifest.weights_digest] = manifest
        if manifest.round_number > 0:
            view = self._round(manifest.round_number, now_s)
            view.released.add(manifest.weights_digest)
            view.closed_s = view.closed_s or now_s

    def _hear_device(self, view: DeviceView, message: Message, now_s: float) -> None:
        match message:
            case Telemetry():
                view.telemetry = message
                view.last_of_session[message.session] = message
                view.rss_peak_bytes = max(view.rss_peak_bytes, message.rss_bytes)
                view.trainer_rss_peak_bytes = max(view.trainer_rss_peak_bytes, message.trainer_rss_bytes)
            case Assignment():
                if view.assignment is None or message.version >= view.assignment.version:
                    view.assignment = message
            case RoundTask():
                self._round(message.round_number, now_s).invited.add(view.device_id)
            case ModelUpdate():
                self._hear_update(message, now_s)
            case EvaluationReport():
                view.reports[message.run_id] = message
                view.report_count += 1
            case EveAlert():
                view.alerts[message.kinwatch.attack_class] += 1
            case Receipt():
                self.receipts_refused.update(() if message.accepted else (message.reason,))
            case _:
                self._hear_state(view, message)

    def _hear_state(self, view: DeviceView, message: Message) -> None:
        match message:
            case Birth():
                view.birth = message
                _append_new(view.sessions, message.session)
            case Status():
                view.status = message
            case Signature():
                view.signature = message
            case ActiveModel():
                view.active = message
            case _:
                self.refused["unexpected-message"] += 1

    def _hear_update(self, message: ModelUpdate, now_s: float) -> None:
        number = int(message.round_id.removeprefix("round-"))
        self._round(number, now_s).updates[message.update_id] = UpdateView(
            message.device_id,
            message.role,
            message.family_id,
            message.rows,
            message.loss_before,
            message.loss_after,
            message.train_seconds,
        )


def _append_new(seen: list[str], value: str) -> None:
    if value not in seen:
        seen.append(value)
