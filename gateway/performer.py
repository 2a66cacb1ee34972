"""Doing what the machine decides: store first, publish after, compute where asked.

Longer than most for the number of effects: each is a branch and a few lines.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from contract import CONTRACT_MAJOR
from contract.codec import encode
from contract.extras import NONE, Extras, extras_of
from contract.messages import (
    ActiveModel,
    BlobRequest,
    EvaluationReport,
    EveAlert,
    GatewayState,
    Message,
    ModelUpdate,
    Receipt,
    RoundTask,
    Versions,
)
from contract.messages.transfer import CHUNK_BYTES
from contract.model import DEFAULT_SPEC, weights_from_bytes, weights_to_bytes
from contract.quantise import decode_delta
from contract.topics import (
    ASSIGNMENT,
    EVALUATION,
    GATEWAY_STATE,
    PART,
    PULL,
    RECEIPT,
    RELEASE,
    RELEASE_OFFER,
    TASK,
    VERDICT,
    VERSIONS,
    Topic,
)
from gateway import log
from gateway.aggregation import ServerState
from gateway.closing import Aggregator, NewModel
from gateway.config import GatewayConfig
from gateway.errors import StoreError
from gateway.events import (
    Announce,
    Assign,
    ClearRelease,
    DropHead,
    Effect,
    FindFamilies,
    Head,
    KeepAlert,
    KeepFamilies,
    PublishRelease,
    Republish,
    RoundStored,
    SearchFinished,
    StoreReported,
)
from gateway.families import Decide, ReplaceFamilies, StoreGrouping
from gateway.privacy import rule_for_mode
from gateway.pulls import Handout
from gateway.registry import Device, DeviceChanged, Refused, SignatureStored
from gateway.releases import SignsBytes
from gateway.rounds import (
    AcceptUpdate,
    ClearTask,
    CloseRound,
    NoteDecline,
    OpenRound,
    RefuseUpdate,
    RepeatReceipt,
    target_key,
)
from gateway.store import Store
from gateway.store.families import StoredGrouping
from gateway.upkeep import AskLosses

Publish = Callable[..., str | None]
STORED_TOGETHER = (StoreGrouping, ReplaceFamilies, Decide, DropHead)
"""Effects that only store; what one search decides is stored as a whole or not at all."""


class Performer:
    """Performs effects.

    Parameters
    ----------
    config
        Configuration.
    store
        Written before anything is published.
    signer
        Signs releases.
    publish
        ``(topic, payload, qos=, retain=, extras=)`` to the broker; returns why not, or ``None``.
    state
        What is announced on ``gateway/state``.
    """

    def __init__(
        self, config: GatewayConfig, store: Store, signer: SignsBytes, publish: Publish, state: GatewayState
    ) -> None:
        self._config = config
        self._store = store
        self._signer = signer
        self._publish = publish
        self._state = state
        self._aggregator = Aggregator(DEFAULT_SPEC, rule_for_mode(config))
        self._changed: dict[str, Device] = {}
        self._alerts: list[EveAlert] = []
        self.counts: Counter[str] = Counter()
        self.handout = Handout()
        self.on_refusal: Callable[[str, str], None] = lambda _device_id, _reason: None

    def perform(self, effect: Effect) -> RoundStored | SearchFinished | None:  # noqa: C901 - one flat table
        """Perform one effect; effects that compute return their outcome as an event.

        Raises
        ------
        StoreError
            If the disk does not take or give what it should.
        """
        match effect:
            case DeviceChanged(device):
                self._changed[device.device_id] = device
            case SignatureStored(signature):
                self._store.signatures.save(signature, now_s=time.time())
            case Refused(device_id, what, reason):
                self.count(device_id, what, reason)
            case OpenRound(number, tasks):
                self._open_round(number, tasks)
            case AcceptUpdate(number, update):
                self._store.rounds.add_update(number, _as_float32(update), now_s=time.time())
                self._receipt(update.device_id, update.update_id, accepted=True, reason="stored")
                log.info("update-stored", device=update.device_id, update=update.update_id, rows=update.rows)
            case RepeatReceipt(device_id, key):
                self.count(device_id, "update", "duplicate")
                self._receipt(device_id, key, accepted=True, reason="duplicate")
            case RefuseUpdate(device_id, key, reason):
                self.count(device_id, "update", reason)
                self._receipt(device_id, key, accepted=False, reason=reason)
            case NoteDecline():
                self._note_decline(effect)
            case CloseRound():
                return self._close_round(effect)
            case ClearTask(device_id):
                self._send_bytes(TASK.of(device=device_id), b"", TASK)
            case FindFamilies():
                return self._find_families(effect)
            case _:
                self._perform_delivery(effect)
        return None

    def store_together(self, effects: Sequence[Effect]) -> None:
        """Perform effects of ``STORED_TOGETHER`` as one unit."""
        with self._store.transaction():
            for effect in effects:
                self.perform(effect)

    def flush(self) -> None:
        """Store what changes often: devices, alerts and counters."""
        if not self._changed and not self.counts and not self._alerts:
            return
        with self._store.transaction():
            for device in self._changed.values():
                self._store.devices.save(device, now_s=time.time())
            self._store.alerts.add(self._alerts, now_s=time.time())
            self._store.add_counts(self.counts)
        self._alerts.clear()
        self._changed.clear()
        self.counts.clear()

    def count(self, device_id: str, what: str, reason: str) -> None:
        """Count and log a refusal."""
        self.counts[f"{what}.{reason}"] += 1
        log.warn("refused", device=device_id, what=what, reason=reason)
        self.on_refusal(device_id, reason)

    def send_verdicts(self) -> None:
        """Send what operators said since the last call; a device that is away gets it from the broker later."""
        for number, verdict in self._store.alerts.unsent_verdicts():
            self._send(VERDICT.of(device=verdict.device_id), verdict, VERDICT)
            self._store.alerts.verdict_sent(number, now_s=time.time())
            log.info("verdict-sent", device=verdict.device_id, flow=verdict.flow_id, label=verdict.label)

    def request_chunks(self, device_id: str, request: BlobRequest) -> None:
        """Ask a device for chunks."""
        self._send(PULL.of(device=device_id), request, PULL)

    def hand_out(self, device_id: str, request: BlobRequest, correlation: bytes | None) -> None:
        """Send a device the chunks of a release that it asks for."""
        chunks = self.handout.chunks(request)
        if chunks is None:
            self.count(device_id, "fetch", "unknown")
            return
        for chunk in chunks:
            self._send(PART.of(device=device_id), chunk, PART, echo=correlation)

    def _perform_delivery(self, effect: Effect) -> None:  # noqa: C901, PLR0912 - one flat table
        """Perform the effects around families, releases and assignments."""
        match effect:
            case StoreGrouping(grouping, number):
                stored = StoredGrouping(
                    number, time.time(), grouping.accepted, grouping.reason, grouping.measures, grouping.scaling
                )
                self._store.families.add_grouping(stored)
                log.info("families-searched", round=number, accepted=grouping.accepted, reason=grouping.reason)
            case ReplaceFamilies(families):
                self._store.families.replace_families(families)
            case Decide(decision):
                self._store.families.add_decision(decision, now_s=time.time())
                log.info("family-decided", device=decision.device_id, family=decision.family_id, reason=decision.reason)
            case DropHead(target):
                self._store.models.drop_head(target)
            case KeepFamilies(reason, number):
                log.info("families-kept", round=number, reason=reason)
            case AskLosses(request):
                self._send(EVALUATION.of(device=request.device_id), request, EVALUATION)
            case Assign(assignment):
                self._store.families.save_assignment(assignment)
                self._send(ASSIGNMENT.of(device=assignment.device_id), assignment, ASSIGNMENT)
            case PublishRelease(digest):
                self._publish_release(digest)
            case ClearRelease(digest):
                self._send_bytes(RELEASE.of(digest=digest), b"", RELEASE)
                self._send_bytes(RELEASE_OFFER.of(digest=digest), b"", RELEASE_OFFER)
                self.handout.withdraw(digest)
                self._store.models.set_published(digest, published=False)
            case Announce():
                versions = Versions(majors=(CONTRACT_MAJOR,), gateway_version=self._state.gateway_version)
                self._send(VERSIONS.of(), versions, VERSIONS)
                self._send(GATEWAY_STATE.of(), self._state, GATEWAY_STATE)
            case Republish(assignments, tasks, without_task):
                for message in assignments:
                    self._send(ASSIGNMENT.of(device=message.device_id), message, ASSIGNMENT)
                for task in tasks:
                    self._send(TASK.of(device=task.device_id), task, TASK)
                for device_id in without_task:
                    self._send_bytes(TASK.of(device=device_id), b"", TASK)
            case StoreReported(message):
                self._store_reported(message)
            case KeepAlert(alert):
                self._alerts.append(alert)
            case _:
                raise AssertionError(f"no way to perform {type(effect).__name__}")

    def _note_decline(self, decline: NoteDecline) -> None:
        """Count a decline apart from the refusals: a device that says no does nothing wrong."""
        if decline.refusal is not None:
            self.count(decline.device_id, "decline", decline.refusal)
            return
        self.counts[f"task.declined-{decline.reason}"] += 1
        log.info("task-declined", device=decline.device_id, reason=decline.reason)

    def _open_round(self, number: int, tasks: tuple[RoundTask, ...]) -> None:
        self._store.rounds.open(number, tasks, now_s=time.time())
        log.info("round-opened", round=number, devices=len(tasks))
        for task in tasks:
            self._send(TASK.of(device=task.device_id), task, TASK)

    def _close_round(self, close: CloseRound) -> RoundStored:
        """Aggregate all targets and store everything at once, so that a crash leaves the round open or closed."""
        started = time.monotonic()
        heads = self._store.models.heads()
        results = list(close.held)
        made: list[NewModel] = []
        updates = [
            (a, self._store.rounds.deltas(close.number, target_key(a.target.role, a.target.family_id)))
            for a in close.aggregations
        ]
        encoder = self._aggregator.encoder_delta(updates)
        for aggregate, some in updates:
            target = target_key(aggregate.target.role, aggregate.target.family_id)
            base = self._store.models.release(aggregate.target.base)
            if base is None:
                raise StoreError(f"the store misses model {aggregate.target.base}, the base of round {close.number}")
            result, model = self._aggregator.run(
                aggregate,
                some,
                weights_from_bytes(base.weights, n_parameters=DEFAULT_SPEC.n_parameters),
                heads[target][1] if target in heads else ServerState.fresh(),
                number=close.number,
                signer=self._signer,
                encoder=encoder,
            )
            results.append(result)
            made += [] if model is None else [model]
        now_s = time.time()
        state = "closed" if close.aggregations else "expired"
        with self._store.transaction():
            for model in made:
                self._store.models.add(model.release, now_s=now_s)
                self._store.models.set_head(model.target, model.release.manifest.weights_digest, model.state)
            self._store.rounds.close(close.number, state=state, reason=close.reason, results=results, now_s=now_s)
        seconds = time.monotonic() - started
        log.info("round-ended", round=close.number, state=state, reason=close.reason, seconds=seconds)
        new_heads = {m.target: Head(m.release.manifest.weights_digest, m.norm) for m in made}
        return RoundStored(close.number, tuple(results), new_heads)

    def _find_families(self, search: FindFamilies) -> SearchFinished:
        # scikit-learn takes tens of megabytes and a second to load; a gateway in its warm-up needs neither.
        from gateway.clustering.level1 import SearchSettings, find_families, separation_of  # noqa: PLC0415
        from gateway.clustering.level2 import (  # noqa: PLC0415
            ConceptSettings,
            one_family_if_agreed,
            split_by_concept,
        )

        f = self._config.families
        private = self._config.rounds.private
        settings = SearchSettings(f.min_size, f.contrast, f.gate, f.stability, f.null_level)
        rng = np.random.default_rng([self._config.seed, search.number])
        grouping = find_families(search.vectors, settings, rng, search.earlier, search.flows, search.noise)
        if f.by_attack and grouping.judged and not private:
            concept = ConceptSettings(f.attack_gate, max(4, f.min_size))
            grouping = split_by_concept(
                grouping, search.vectors, search.prototypes, concept, rng, earlier=search.earlier
            )
            grouping = one_family_if_agreed(grouping, search.vectors, search.prototypes, f.min_conflict)
        found = {str(k): frozenset(group.members) for k, group in enumerate(grouping.groups)}
        apart = separation_of(search.vectors, found, grouping.scaling)
        now = separation_of(search.vectors, search.earlier, grouping.scaling)
        grouping = replace(grouping, measures={**grouping.measures, "separation": apart})
        return SearchFinished(grouping, search.number, now)

    def _publish_release(self, digest: str) -> None:
        release = self._store.models.release(digest)
        if release is None:
            raise StoreError(f"the store misses model {digest}, which an assignment names")
        data, inline_bytes = encode(release), self._config.broker.inline_bytes
        if len(data) <= inline_bytes:
            self._send_bytes(RELEASE.of(digest=digest), data, RELEASE)
        else:
            offer = self.handout.offer(digest, data, chunk_bytes=min(CHUNK_BYTES, inline_bytes))
            self._send(RELEASE_OFFER.of(digest=digest), offer, RELEASE_OFFER)
        self._store.models.set_published(digest, published=True)

    def _store_reported(self, message: ActiveModel | EvaluationReport) -> None:
        if isinstance(message, EvaluationReport):
            self._store.reports.save(message, now_s=time.time())
            key = f"report-{message.run_id}"
            self._receipt(message.device_id, key, accepted=True, reason="stored")
            return
        self.flush()
        self._store.devices.save_active(message)

    def _receipt(self, device_id: str, key: str, *, accepted: bool, reason: str) -> None:
        receipt = Receipt(device_id=device_id, key=key, accepted=accepted, reason=reason)
        self._send(RECEIPT.of(device=device_id), receipt, RECEIPT)

    def _send(self, topic: str, message: Message, row: Topic, *, echo: bytes | None = None) -> None:
        self._send_bytes(topic, encode(message), row, extras=extras_of(row, topic, message, echo=echo))

    def _send_bytes(self, topic: str, payload: bytes, row: Topic, *, extras: Extras = NONE) -> None:
        refusal = self._publish(topic, payload, qos=row.qos, retain=row.retain, extras=extras)
        if refusal == "oversize":
            self.counts["publish.oversize"] += 1
            log.warn("publish-refused", topic=topic, bytes=len(payload), reason=refusal)


def _as_float32(update: ModelUpdate) -> ModelUpdate:
    """Return the update as it is stored and averaged, whatever form it came in; it was screened."""
    if update.delta_encoding == "float32":
        return update
    delta = decode_delta(update.delta, update.delta_encoding, n_parameters=DEFAULT_SPEC.n_parameters)
    return update.model_copy(update={"delta_encoding": "float32", "delta": weights_to_bytes(delta)})
