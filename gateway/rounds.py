"""The round machine: idle, open, closing. No I/O; time is passed in.

A round trains the fallback on all its participants and each family's expert on the family's members. It closes when
everything has come in or was declined, or at its deadline. An update counts once, for the round, target and base it
was asked for; everything else is a refusal with a reason, and changes nothing.

Longer than most: opening, taking in and closing change one state.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil

from contract.messages import Decline, ModelUpdate, RoundTask, TrainTarget

FALLBACK = "fallback"


def target_key(role: str, family_id: str | None) -> str:
    """Return the key of a target: ``fallback``, or the family's id."""
    return family_id if role == "expert" and family_id is not None else FALLBACK


@dataclass(frozen=True, slots=True)
class RoundRules:
    """When rounds open and close; meanings as in the configuration.

    Attributes
    ----------
    max_rounds, interval_s, deadline_s, min_devices, quorum, expert_min_updates
        As ``rounds`` and ``aggregation`` of the configuration.
    """

    max_rounds: int
    interval_s: float
    deadline_s: float
    min_devices: int
    quorum: float
    expert_min_updates: int


@dataclass(frozen=True, slots=True)
class TargetResult:
    """What a round did to a target.

    Attributes
    ----------
    target
        ``fallback`` or a family id.
    digest
        The new model, ``None`` if the target was held.
    devices
        Whose updates are in it, or would have been.
    reason
        Slug.
    measurements
        Figures of the aggregation.
    """

    target: str
    digest: str | None
    devices: tuple[str, ...]
    reason: str
    measurements: dict[str, float]


@dataclass(frozen=True, slots=True)
class CandidatesSeen:
    """These tasks could be given now, one per device that is ready."""

    tasks: tuple[RoundTask, ...]


@dataclass(frozen=True, slots=True)
class UpdateArrived:
    """An update came from ``device_id``; ``content_refusal`` says what is wrong with its bytes, if anything."""

    device_id: str
    update: ModelUpdate
    content_refusal: str | None


@dataclass(frozen=True, slots=True)
class DeclineArrived:
    """``device_id`` will send no further update of a round."""

    device_id: str
    decline: Decline


@dataclass(frozen=True, slots=True)
class ParticipantGone:
    """Nothing of ``device_id`` will be looked at, so the open round shall not wait for it."""

    device_id: str


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Look at the clock."""


@dataclass(frozen=True, slots=True)
class RoundSettled:
    """The results of a closing round are stored."""

    number: int


@dataclass(frozen=True, slots=True)
class OpenRound:
    """Store the round and its tasks, then send them."""

    number: int
    tasks: tuple[RoundTask, ...]


@dataclass(frozen=True, slots=True)
class AcceptUpdate:
    """Store the update, then send its receipt."""

    number: int
    update: ModelUpdate


@dataclass(frozen=True, slots=True)
class RepeatReceipt:
    """The update is stored already: say so again."""

    device_id: str
    key: str


@dataclass(frozen=True, slots=True)
class RefuseUpdate:
    """Send a refusal and count it."""

    device_id: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class NoteDecline:
    """Count a decline that was understood; ``refusal`` says why it changes nothing, if it does not."""

    device_id: str
    reason: str
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Make a new model of a target from the updates of these devices."""

    target: TrainTarget
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CloseRound:
    """Aggregate, store the results and answer ``RoundSettled``; ``held`` targets keep their model.

    ``aggregations`` is empty if the round expired.
    """

    number: int
    aggregations: tuple[Aggregate, ...]
    held: tuple[TargetResult, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class ClearTask:
    """Take back the retained task of a device."""

    device_id: str


RoundEvent = CandidatesSeen | UpdateArrived | DeclineArrived | ParticipantGone | TimePassed | RoundSettled
RoundEffect = OpenRound | AcceptUpdate | RepeatReceipt | RefuseUpdate | NoteDecline | CloseRound | ClearTask


@dataclass(slots=True)
class _Open:
    number: int
    tasks: dict[str, RoundTask]
    deadline: float
    received: dict[str, set[str]] = field(default_factory=dict)
    update_ids: set[str] = field(default_factory=set)
    declined: set[str] = field(default_factory=set)
    closing: bool = False

    def take(self, update_id: str, target: str, device_id: str) -> None:
        self.update_ids.add(update_id)
        self.received.setdefault(target, set()).add(device_id)

    @property
    def wanted(self) -> int:
        return sum(len(task.targets) for task in self.tasks.values())

    @property
    def answered(self) -> bool:
        """Whether nothing more is to be waited for."""
        return all(
            device_id in self.declined or all(_update_id(task, target) in self.update_ids for target in task.targets)
            for device_id, task in self.tasks.items()
        )


class RoundMachine:
    """One round after the other.

    Parameters
    ----------
    rules
        When rounds open and close.
    last_number
        Number of the last round that was opened, 0 before the first.
    settled_ids
        Update ids of the last closed round, so that a repeated update is known for what it is.
    """

    def __init__(self, rules: RoundRules, *, last_number: int = 0, settled_ids: Iterable[str] = ()) -> None:
        self._rules = rules
        self._last_number = last_number
        self._settled_ids = set(settled_ids)
        self._open: _Open | None = None
        self._not_before: float | None = None

    @property
    def next_number(self) -> int:
        """Number of the next round."""
        return self._last_number + 1

    @property
    def finished(self) -> bool:
        """Whether no further round will open."""
        return 0 < self._rules.max_rounds <= self._last_number

    @property
    def open_tasks(self) -> Mapping[str, RoundTask]:
        """Tasks of the open round by device, empty without one."""
        return {} if self._open is None or self._open.closing else self._open.tasks

    def wants_candidates(self, now: float) -> bool:
        """Whether a round would open if enough devices were ready."""
        waits = self._not_before is not None and now < self._not_before
        return self._open is None and not self.finished and not waits

    def resume(self, tasks: Iterable[RoundTask], update_ids: Iterable[str], now: float) -> list[RoundEffect]:
        """Go on with a round that was open when the last process ended; it gets its whole deadline again."""
        by_device = {task.device_id: task for task in tasks}
        self._open = _Open(self._last_number, by_device, now + self._rules.deadline_s)
        for device_id, task in by_device.items():
            for target in task.targets:
                key = _update_id(task, target)
                if key in set(update_ids):
                    self._open.take(key, target_key(target.role, target.family_id), device_id)
        return self._close_if_due(now)

    def handle(self, event: RoundEvent, now: float) -> list[RoundEffect]:
        """Take an event; ``now`` is in monotonic seconds."""
        match event:
            case CandidatesSeen():
                return self._candidates(event.tasks, now)
            case UpdateArrived():
                return self._update(event, now)
            case DeclineArrived():
                return self._decline(event, now)
            case ParticipantGone(device_id):
                return self._gone(device_id, now)
            case TimePassed():
                return self._close_if_due(now)
            case RoundSettled():
                return self._settled(event.number, now)

    def _candidates(self, tasks: tuple[RoundTask, ...], now: float) -> list[RoundEffect]:
        enough = len(tasks) >= self._rules.min_devices
        if not enough or not self.wants_candidates(now):
            return []
        self._last_number += 1
        self._open = _Open(self._last_number, {task.device_id: task for task in tasks}, now + self._rules.deadline_s)
        return [OpenRound(self._last_number, tasks)]

    def _update(self, event: UpdateArrived, now: float) -> list[RoundEffect]:
        update, device_id = event.update, event.device_id
        if update.update_id in self._settled_ids or (
            self._open is not None and update.update_id in self._open.update_ids
        ):
            return [RepeatReceipt(device_id, update.update_id)]
        refusal = self._context_refusal(device_id, update) or event.content_refusal
        if refusal is not None or self._open is None:
            return [RefuseUpdate(device_id, update.update_id, refusal or "stale-round")]
        self._open.take(update.update_id, target_key(update.role, update.family_id), device_id)
        return [AcceptUpdate(self._open.number, update), *self._close_if_due(now)]

    def _decline(self, event: DeclineArrived, now: float) -> list[RoundEffect]:
        """Wait no longer for a device; its invitation still counts in the quorum."""
        current, reason = self._open, event.decline.reason
        if current is None or current.closing or event.decline.round_id != f"round-{current.number:06d}":
            return [NoteDecline(event.device_id, reason, "stale-round")]
        if event.device_id not in current.tasks:
            return [NoteDecline(event.device_id, reason, "uninvited")]
        if event.device_id in current.declined:
            return []
        current.declined.add(event.device_id)
        return [NoteDecline(event.device_id, reason), *self._close_if_due(now)]

    def _gone(self, device_id: str, now: float) -> list[RoundEffect]:
        """Wait no longer for a device; what it sent before counts, and so does its invitation in the quorum."""
        if self._open is None or self._open.closing or device_id not in self._open.tasks:
            return []
        self._open.declined.add(device_id)
        return self._close_if_due(now)

    def _context_refusal(self, device_id: str, update: ModelUpdate) -> str | None:
        current = self._open
        if current is None or current.closing or update.round_id != f"round-{current.number:06d}":
            return "stale-round"
        task = current.tasks.get(device_id)
        if task is None:
            return "uninvited"
        target = next((t for t in task.targets if (t.role, t.family_id) == (update.role, update.family_id)), None)
        if target is None:
            return "wrong-target"
        if update.update_id != _update_id(task, target):
            return "update-id"
        if update.spec_id != task.spec_id:
            return "wrong-spec"
        if update.delta_encoding != task.delta_encoding:
            return "wrong-encoding"
        return "wrong-base" if update.base != target.base else None

    def _close_if_due(self, now: float) -> list[RoundEffect]:
        current = self._open
        if current is None or current.closing:
            return []
        complete = len(current.update_ids) == current.wanted
        # Nobody has declined in most rounds; looking at every task after every update would cost their square.
        answered = complete or (bool(current.declined) and current.answered)
        if not answered and now < current.deadline:
            return []
        current.closing = True
        aggregations, held = self._sort_targets(current)
        reason = "complete" if complete else "answered" if answered else "deadline"
        close = CloseRound(current.number, tuple(aggregations), tuple(held), reason if aggregations else "no-quorum")
        return [close, *(ClearTask(device_id) for device_id in sorted(current.tasks))]

    def _sort_targets(self, current: _Open) -> tuple[list[Aggregate], list[TargetResult]]:
        invited: dict[str, int] = {}
        targets: dict[str, TrainTarget] = {}
        for task in current.tasks.values():
            for target in task.targets:
                key = target_key(target.role, target.family_id)
                invited[key] = invited.get(key, 0) + 1
                targets[key] = target
        aggregations: list[Aggregate] = []
        held: list[TargetResult] = []
        for key in sorted(targets, key=lambda k: (k != FALLBACK, k)):
            devices = tuple(sorted(current.received.get(key, set())))
            if key == FALLBACK:
                needed = max(1, ceil(self._rules.quorum * invited[key]))
            else:
                needed = self._rules.expert_min_updates
            if len(devices) >= needed:
                aggregations.append(Aggregate(targets[key], devices))
            else:
                held.append(TargetResult(key, None, devices, "too-few-updates", {"needed": float(needed)}))
        return aggregations, held

    def _settled(self, number: int, now: float) -> list[RoundEffect]:
        if self._open is not None and self._open.closing and self._open.number == number:
            self._settled_ids = self._open.update_ids
            self._open = None
            self._not_before = now + self._rules.interval_s
        return []


def _update_id(task: RoundTask, target: TrainTarget) -> str:
    return f"{task.round_id}-{task.device_id}-{target.role}"
