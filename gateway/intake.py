"""From bytes on a topic to events of the machine: who is heard, what decodes, what is put together from chunks."""

import time
from collections.abc import Callable

from contract.codec import decode
from contract.errors import ContractError
from contract.messages import BlobChunk, BlobOffer, BlobRequest, Message, ModelUpdate
from contract.topics import foreign_birth, parse
from gateway import log
from gateway.admission import QUARANTINED, Admission, AdmissionRules
from gateway.config import ScreeningConfig
from gateway.events import DeviceConfined, PeerSaid
from gateway.performer import Performer
from gateway.pulls import Pulls
from gateway.store import Store
from gateway.store.quarantine import Confined

_LOGGED_TOPIC = 80


class Intake:
    """Takes messages of peers; whatever is wrong with one is counted and changes nothing else.

    Parameters
    ----------
    screening
        Limits for every device.
    store
        For chunks and quarantines.
    performer
        Counts refusals and sends requests.
    handle
        Takes what a device said.
    """

    def __init__(
        self,
        screening: ScreeningConfig,
        store: Store,
        performer: Performer,
        handle: Callable[[PeerSaid | DeviceConfined], None],
    ) -> None:
        wall_s, now = time.time(), time.monotonic()
        confined = [(c.device_id, c.until_s - wall_s, c.times) for c in store.quarantine.all()]
        self._admission = Admission(AdmissionRules(**screening.model_dump()), confined, now)
        self._pulls = Pulls(store.blobs, performer.request_chunks)
        self._store = store
        self._performer = performer
        self._handle = handle
        performer.on_refusal = self._refused
        # Told to the machine between two messages: a refusal may be the effect of what it decides just now.
        self._confined_now = [DeviceConfined(device_id, left) for device_id, left, _ in confined if left > 0]

    def take(self, topic: str, payload: bytes, correlation: bytes | None = None) -> None:
        """Take a message; ``correlation`` goes back with the answer."""
        if not payload:
            return
        try:
            parsed = parse(topic)
        except ContractError as error:
            self._unreadable(topic, error.reason)
            return
        if "gateway" not in parsed.topic.readers:
            # amqtt gives a session that comes back the retained messages of everybody's subscriptions.
            self._performer.counts["broker.foreign-topic"] += 1
            return
        device_id = parsed.device_id
        if device_id is None or not self._admitted(device_id, len(payload)):
            return
        try:
            message = decode(parsed.topic.message, payload)
        except ContractError as error:
            self._performer.count(device_id, "message", error.reason)
            return
        self._dispatch(device_id, message, correlation)
        self.tell_confined()

    def tick(self, now: float) -> None:
        """Ask again for chunks that have not come."""
        self._pulls.tick(now)
        self.tell_confined()

    def tell_confined(self) -> None:
        """Tell the machine which devices are in quarantine since it was told last."""
        told, self._confined_now = self._confined_now, []
        for confined in told:
            self._pulls.forget(confined.device_id)
            self._handle(confined)

    def _dispatch(self, device_id: str, message: Message, correlation: bytes | None) -> None:
        now = time.monotonic()
        match message:
            case BlobOffer():
                refusal = self._pulls.offered(device_id, message, now)
                if refusal is not None:
                    self._performer.count(device_id, "offer", refusal)
            case BlobChunk():
                whole, refusal = self._pulls.took(device_id, message, now)
                if refusal is not None:
                    self._performer.count(device_id, "chunk", refusal)
                if whole is not None:
                    self._take_whole(device_id, whole)
            case BlobRequest():
                self._performer.hand_out(device_id, message, correlation)
            case _:
                self._handle(PeerSaid(device_id, message))

    def _take_whole(self, device_id: str, data: bytes) -> None:
        try:
            self._handle(PeerSaid(device_id, decode(ModelUpdate, data)))
        except ContractError as error:
            self._performer.count(device_id, "message", error.reason)
        # After the update is stored, so that a crash in between costs a second look at the chunks, not the update.
        self._pulls.forget(device_id)

    def _admitted(self, device_id: str, size_bytes: int) -> bool:
        now = time.monotonic()
        refusal = self._admission.admit(device_id, size_bytes, now)
        if refusal is None:
            return True
        # A line in the log for every message of a flood would be a second flood.
        self._performer.counts[f"{refusal}.{device_id}"] += 1
        if refusal != QUARANTINED and self._admission.first_of_flood(device_id, now):
            log.warn("rate-limited", device=device_id, action="messages are dropped until it slows down")
        return False

    def _unreadable(self, topic: str, reason: str) -> None:
        foreign = foreign_birth(topic)
        if foreign is None:
            self._performer.count(topic[:_LOGGED_TOPIC], "message", reason)
        else:
            self._performer.count(foreign[1], "birth", f"contract-major-{foreign[0]}")

    def _refused(self, device_id: str, reason: str) -> None:
        confinement = self._admission.refused(device_id, reason, time.monotonic())
        if confinement is None:
            return
        now_s = time.time()
        self._store.quarantine.save(Confined(device_id, reason, now_s, now_s + confinement.seconds, confinement.times))
        log.warn("quarantined", device=device_id, reason=reason, seconds=confinement.seconds)
        self._confined_now.append(DeviceConfined(device_id, confinement.seconds))
