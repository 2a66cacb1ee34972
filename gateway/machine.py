"""The gateway without I/O: registry, rounds and families put together.

``handle(event, now) -> list[Effect]``. The service performs the effects in order; those that compute (``CloseRound``,
``FindFamilies``) come back as events. Starting over is safe at any point: what an effect stores is stored before
anything is published, and ``SessionUp`` publishes all retained state again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from contract.messages import (
    ActiveModel,
    Assignment,
    Decline,
    Epoch,
    EvaluationReport,
    EveAlert,
    ModelUpdate,
    RoundTask,
    Signature,
    Telemetry,
    TrainTarget,
)
from contract.messages.fleet import Birth, Status
from contract.model import ModelId, ModelSpec
from gateway.config import GatewayConfig
from gateway.events import (
    Announce,
    Assign,
    ClearRelease,
    DeviceConfined,
    DropHead,
    Effect,
    Event,
    FindFamilies,
    Head,
    KeepAlert,
    PeerSaid,
    PublishRelease,
    Republish,
    RoundStored,
    SearchFinished,
    SessionUp,
    StoreReported,
    Ticked,
)
from gateway.families import FamilyBook, ReplaceFamilies
from gateway.registry import Refused, Registry
from gateway.rounds import (
    FALLBACK,
    CandidatesSeen,
    DeclineArrived,
    ParticipantGone,
    RoundMachine,
    RoundSettled,
    TimePassed,
    UpdateArrived,
)
from gateway.screening import content_refusal

_SEED_STRIDE = 1_000_003


@dataclass(slots=True)
class Memory:
    """What the machine works on, fresh or restored from the store.

    Attributes
    ----------
    registry, rounds, book
        The three parts.
    heads
        Current model by target; ``fallback`` is always there.
    assignments
        Last assignment by device.
    published
        Digests whose releases the broker holds.
    epoch
        Goes into every assignment.
    confined
        Until when devices are in quarantine, monotonic seconds.
    """

    registry: Registry
    rounds: RoundMachine
    book: FamilyBook
    heads: dict[str, Head]
    assignments: dict[str, Assignment] = field(default_factory=dict)
    published: set[str] = field(default_factory=set)
    epoch: Epoch | None = None
    confined: dict[str, float] = field(default_factory=dict)


class GatewayMachine:
    """All decisions of the gateway.

    Parameters
    ----------
    config
        Configuration.
    spec
        The model spec.
    memory
        State, which the machine owns from now on.
    """

    def __init__(self, config: GatewayConfig, spec: ModelSpec, memory: Memory) -> None:
        self._config = config
        self._spec = spec
        self._m = memory

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event; ``now`` is in monotonic seconds."""
        match event:
            case PeerSaid():
                return self._peer(event, now)
            case Ticked():
                return self._tick(now)
            case RoundStored():
                return self._round_stored(event, now)
            case SearchFinished():
                return self._search_finished(event)
            case DeviceConfined(device_id, seconds):
                self._m.confined[device_id] = now + seconds
                return [*self._m.rounds.handle(ParticipantGone(device_id), now)]
            case SessionUp():
                return self._session_up()

    def start(self, tasks: Iterable[RoundTask], update_ids: Iterable[str], now: float) -> list[Effect]:
        """Go on with an open round of the last process, and bring all assignments up to date."""
        effects: list[Effect] = []
        resumed = tuple(tasks)
        if resumed:
            effects += self._m.rounds.resume(resumed, update_ids, now)
        return [*effects, *self._assign(self._m.assignments)]

    def _peer(self, event: PeerSaid, now: float) -> list[Effect]:
        device_id, message = event.device_id, event.message
        if getattr(message, "device_id", device_id) != device_id:
            return [Refused(device_id, type(message).__name__.lower(), "foreign-device")]
        match message:
            case Birth() | Status() | Telemetry() | Signature():
                effects: list[Effect] = [*self._m.registry.handle(message, now)]
                return effects + self._place(device_id)
            case ModelUpdate():
                return self._update(device_id, message, now)
            case Decline():
                return [*self._m.rounds.handle(DeclineArrived(device_id, message), now)]
            case ActiveModel() | EvaluationReport():
                return [*self._m.registry.ensure(device_id), StoreReported(message)]
            case EveAlert():
                if message.kinwatch.device_id != device_id:
                    return [Refused(device_id, "evealert", "foreign-device")]
                return [*self._m.registry.ensure(device_id), KeepAlert(message)]
            case _:
                return [Refused(device_id, type(message).__name__.lower(), "unexpected")]

    def _place(self, device_id: str) -> list[Effect]:
        device = self._m.registry.devices.get(device_id)
        if device is None or device.refusal is not None:
            return []
        vector = self._m.registry.vectors.get(device_id)
        effects: list[Effect] = [*self._m.book.device_seen(device_id, vector, self._last_round)]
        return effects + (self._assign([device_id]) if effects or device_id not in self._m.assignments else [])

    def _update(self, device_id: str, update: ModelUpdate, now: float) -> list[Effect]:
        norms = {head.digest: head.norm for head in self._m.heads.values()}
        refusal = content_refusal(
            update,
            device_id=device_id,
            spec_id=self._spec.spec_id,
            n_parameters=self._spec.n_parameters,
            max_norm=self._config.aggregation.norm_bound * max(1.0, norms.get(update.base, 0.0)),
        )
        return [*self._m.rounds.handle(UpdateArrived(device_id, update, refusal), now)]

    def _tick(self, now: float) -> list[Effect]:
        effects: list[Effect] = [*self._m.registry.tick(now)]
        effects += self._m.rounds.handle(TimePassed(), now)
        if self._m.rounds.wants_candidates(now):
            effects += self._m.rounds.handle(CandidatesSeen(self._tasks(now)), now)
        return effects

    def _tasks(self, now: float) -> tuple[RoundTask, ...]:
        """Return the tasks a round would have now: the fallback for all, experts where enough members are there."""
        rounds = self._config.rounds
        ready = [
            device.device_id
            for device in self._m.registry.devices.values()
            if device.can_train
            and device.train_rows >= rounds.min_rows
            and now >= self._m.confined.get(device.device_id, now)
        ]
        present: dict[str, int] = {}
        for device_id in ready:
            family = self._m.book.family_of(device_id)
            if family is not None and not family.shared:
                present[family.family_id] = present.get(family.family_id, 0) + 1
        number = self._m.rounds.next_number
        return tuple(
            RoundTask(
                round_id=f"round-{number:06d}",
                round_number=number,
                device_id=device_id,
                spec_id=self._spec.spec_id,
                targets=self._targets(device_id, present),
                local_epochs=rounds.local_epochs,
                learning_rate=rounds.learning_rate,
                proximal_mu=rounds.proximal_mu,
                recon_weight=rounds.recon_weight,
                seed=self._config.seed * _SEED_STRIDE + number,
                deadline_s=rounds.deadline_s,
            )
            for device_id in sorted(ready)
        )

    def _targets(self, device_id: str, present: Mapping[str, int]) -> tuple[TrainTarget, ...]:
        fallback = self._m.heads[FALLBACK].digest
        targets = [TrainTarget(role="fallback", base=fallback)]
        family = self._m.book.family_of(device_id)
        enough = self._config.aggregation.expert_min_updates
        if family is not None and present.get(family.family_id, 0) >= enough:
            head = self._m.heads.get(family.family_id)
            base = fallback if head is None else head.digest
            targets.append(TrainTarget(role="expert", family_id=family.family_id, base=base))
        return tuple(targets)

    def _round_stored(self, event: RoundStored, now: float) -> list[Effect]:
        self._m.heads.update(event.heads)
        effects: list[Effect] = [*self._m.rounds.handle(RoundSettled(event.number), now)]
        if self._m.registry.vectors and self._m.book.search_due(event.number):
            eligible = {
                device_id: vector
                for device_id, vector in self._m.registry.vectors.items()
                if (device := self._m.registry.devices.get(device_id)) is not None and device.refusal is None
            }
            if eligible:
                flows = {device_id: self._m.registry.flows[device_id] for device_id in eligible}
                looks = {device_id: self._m.registry.prototypes.get(device_id, {}) for device_id in eligible}
                effects.append(FindFamilies(eligible, flows, self._m.book.members(), event.number, looks))
                return [*self._publish_heads(), *effects]
        return [*self._publish_heads(), *effects, *self._assign_all(), *self._clear_superseded()]

    def _search_finished(self, event: SearchFinished) -> list[Effect]:
        found = self._m.book.grouping_found(event.grouping, event.number)
        gone = [family_id for effect in found if isinstance(effect, ReplaceFamilies) for family_id in effect.gone]
        ended = [DropHead(family_id) for family_id in gone if self._m.heads.pop(family_id, None) is not None]
        effects: list[Effect] = [*found, *ended]
        return [*effects, *self._assign_all(), *self._clear_superseded()]

    def _session_up(self) -> list[Effect]:
        tasks = self._m.rounds.open_tasks
        idle = tuple(sorted(set(self._m.registry.devices) - set(tasks)))
        needed = self._needed()
        self._m.published |= needed
        return [
            Announce(),
            *(PublishRelease(digest) for digest in sorted(needed)),
            Republish(tuple(self._m.assignments.values()), tuple(tasks.values()), idle),
            *self._clear_superseded(),
        ]

    def _assign_all(self) -> list[Effect]:
        devices = self._m.registry.devices
        return self._assign(d for d in sorted(devices) if devices[d].refusal is None)

    def _assign(self, device_ids: Iterable[str]) -> list[Effect]:
        """Return new assignments for the devices whose desired state differs from the last one."""
        effects: list[Effect] = []
        for device_id in list(device_ids):
            old = self._m.assignments.get(device_id)
            new = self._desired(device_id, 0 if old is None else old.version)
            if old is None or new != old:
                new = new.model_copy(update={"version": new.version + 1})
                self._m.assignments[device_id] = new
                effects.append(Assign(new))
        return effects

    def _desired(self, device_id: str, version: int) -> Assignment:
        decision = self._m.book.decisions.get(device_id)
        family = self._m.book.family_of(device_id)
        head = None if family is None or family.shared else self._m.heads.get(family.family_id)
        family_id = None if family is None else family.family_id
        return Assignment(
            device_id=device_id,
            version=version,
            family_id=family_id,
            reason="" if decision is None else decision.reason,
            fallback=ModelId(role="fallback", digest=self._m.heads[FALLBACK].digest),
            expert=None if head is None else ModelId(role="expert", family_id=family_id, digest=head.digest),
            epoch=self._m.epoch,
        )

    def _needed(self) -> set[str]:
        """Return the digests that an assignment names or an open round starts from."""
        bases = {target.base for task in self._m.rounds.open_tasks.values() for target in task.targets}
        return {head.digest for head in self._m.heads.values()} | bases

    def _publish_heads(self) -> list[Effect]:
        new = sorted(self._needed() - self._m.published)
        self._m.published.update(new)
        return [PublishRelease(digest) for digest in new]

    def _clear_superseded(self) -> list[Effect]:
        old = sorted(self._m.published - self._needed())
        self._m.published.difference_update(old)
        return [ClearRelease(digest) for digest in old]

    @property
    def _last_round(self) -> int:
        return self._m.rounds.next_number - 1
