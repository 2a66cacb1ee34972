"""The gateway without I/O: registry, rounds and families put together.

``handle(event, now) -> list[Effect]``. The service performs the effects in order; those that compute (``CloseRound``,
``FindFamilies``) come back as events. Starting over is safe at any point: what an effect stores is stored before
anything is published, and ``SessionUp`` publishes all retained state again.

Longer than most for the number of events: each has a method of a few lines.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from contract.messages import (
    ActiveModel,
    Assignment,
    Decline,
    Epoch,
    EvaluationReport,
    EveAlert,
    LossReport,
    ModelUpdate,
    RoundTask,
    Signature,
    Telemetry,
    TrainTarget,
)
from contract.messages.fleet import Birth, Status
from contract.model import ModelId, ModelSpec
from gateway.config import GatewayConfig
from gateway.drifting import DriftWatch
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
    KeepFamilies,
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
from gateway.lifecycle import LifeRules, search_again
from gateway.privacy import private_norm
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
from gateway.upkeep import Upkeep

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
    anchor
        Digest of the fallback that ended the warm-up, at which devices make the sketches of their signatures.
    """

    registry: Registry
    rounds: RoundMachine
    book: FamilyBook
    heads: dict[str, Head]
    assignments: dict[str, Assignment] = field(default_factory=dict)
    published: set[str] = field(default_factory=set)
    epoch: Epoch | None = None
    confined: dict[str, float] = field(default_factory=dict)
    anchor: str | None = None


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
        rules = LifeRules(min_live=config.families.min_size, rounds_apart=config.families.recluster_every)
        self._rules = rules
        self._upkeep = Upkeep(rules, config.families.check_every, memory.registry, memory.book)
        self._drift = DriftWatch(rules.alarm_share, memory.registry.sequences)

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
                if isinstance(message, Telemetry):
                    self._drift.heard(message)
                return effects + self._place(device_id)
            case LossReport():
                return [*self._upkeep.answered(message)]
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
        if vector is not None:
            sequence = self._m.registry.sequences[device_id]
            self._drift.note_placed(device_id, sequence)
            features = self._drift.features_if_due(device_id, sequence)
            if features:
                effects += self._m.book.device_drifted(device_id, vector, features, self._last_round)
        return effects + (self._assign([device_id]) if effects or device_id not in self._m.assignments else [])

    def _update(self, device_id: str, update: ModelUpdate, now: float) -> list[Effect]:
        norms = {head.digest: head.norm for head in self._m.heads.values()}
        bound = self._config.aggregation.norm_bound * max(1.0, norms.get(update.base, 0.0))
        if self._config.rounds.private:
            bound = max(bound, private_norm(self._config.rounds, self._spec.n_parameters))
        refusal = content_refusal(
            update,
            device_id=device_id,
            spec_id=self._spec.spec_id,
            n_parameters=self._spec.n_parameters,
            max_norm=bound,
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
        private = rounds.private
        ready = [
            device.device_id
            for device in self._m.registry.devices.values()
            if device.can_train
            and device.train_rows >= rounds.min_rows
            and now >= self._m.confined.get(device.device_id, now)
        ]
        if len(ready) < rounds.min_devices:
            # No round would open; a thousand tasks made ten times a second while a fleet gathers are for nothing.
            return ()
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
                delta_encoding=rounds.delta_encoding,
                seed=self._config.seed * _SEED_STRIDE + number,
                deadline_s=rounds.deadline_s,
                clip_norm=rounds.clip_norm if private else None,
                noise_multiplier=rounds.noise_multiplier if private else None,
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
        if self._m.anchor is None and event.number >= self._config.rounds.warmup_rounds:
            self._m.anchor = None if self._config.rounds.private else self._m.heads[FALLBACK].digest
        effects += self._keep_up(event.number)
        if self._m.registry.vectors and self._m.book.search_due(event.number):
            eligible = {
                device_id: vector
                for device_id, vector in self._m.registry.vectors.items()
                if (device := self._m.registry.devices.get(device_id)) is not None and device.refusal is None
            }
            if eligible:
                flows = {device_id: self._m.registry.flows[device_id] for device_id in eligible}
                looks = {device_id: self._m.registry.prototypes.get(device_id, {}) for device_id in eligible}
                noise = {device_id: self._m.registry.noise.get(device_id, 0.0) for device_id in eligible}
                members = self._m.book.members()
                effects.append(FindFamilies(eligible, flows, members, event.number, looks, noise))
                return [*self._publish_heads(), *effects]
        return [*self._publish_heads(), *effects, *self._assign_all(), *self._clear_superseded()]

    def _keep_up(self, number: int) -> list[Effect]:
        """Do what is due between two searches."""
        experts = {target: head.digest for target, head in self._m.heads.items() if target != FALLBACK}
        return self._with_ended_heads(self._upkeep.after_round(number, experts))

    def _with_ended_heads(self, effects: Sequence[Effect]) -> list[Effect]:
        gone = [family_id for effect in effects if isinstance(effect, ReplaceFamilies) for family_id in effect.gone]
        return [*effects, *(DropHead(f) for f in gone if self._m.heads.pop(f, None) is not None)]

    def _kept_reason(self, event: SearchFinished) -> str | None:
        """Return why the families stay although they were looked for, ``None`` if they are to be replaced."""
        book, devices = self._m.book, self._m.registry.vectors
        since = book.rounds_since_search(event.number)
        if since is None or not event.grouping.judged:
            return None
        structured = any(not family.shared for family in book.families.values())
        before, now = book.separation, event.separation
        why = search_again(
            drifted=len(self._drift.changed | book.newcomers_outside()),
            devices=len(devices),
            silhouettes=(before, now) if before and now is not None and structured else None,
            gate_changed=event.grouping.accepted != structured,
            rounds_since=since,
            rules=self._rules,
        )
        return None if why is not None else f"looked again, nothing calls for other families: {event.grouping.reason}"

    def _search_finished(self, event: SearchFinished) -> list[Effect]:
        kept = self._kept_reason(event)
        if kept is not None:
            self._m.book.families_kept(event.number)
            return [KeepFamilies(kept, event.number), *self._assign_all(), *self._clear_superseded()]
        self._drift.start_over(self._m.registry.sequences)
        found = self._m.book.grouping_found(event.grouping, event.number)
        return [*self._with_ended_heads(found), *self._assign_all(), *self._clear_superseded()]

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
            anchor=self._m.anchor,
            classes=() if family_id is None else self._known_classes(family_id),
        )

    def _known_classes(self, family_id: str) -> tuple[str, ...]:
        """Return the attack classes that members of a family have seen."""
        seen: set[str] = set()
        for device_id in self._m.book.members().get(family_id, ()):
            seen |= self._m.registry.classes.get(device_id, frozenset())
        return tuple(sorted(seen))

    def _needed(self) -> set[str]:
        """Return the digests that an assignment names or an open round starts from."""
        bases = {target.base for task in self._m.rounds.open_tasks.values() for target in task.targets}
        anchor = set() if self._m.anchor is None else {self._m.anchor}
        return {head.digest for head in self._m.heads.values()} | bases | anchor

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
