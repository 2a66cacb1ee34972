"""What the device says: encoding, sending what is due now, and the outbox for what must arrive."""

import time
from collections.abc import Callable

from contract import codec
from contract.errors import ContractError
from contract.extras import NONE, Extras, extras_of, response_topic
from contract.messages import BlobOffer, BlobRequest, Message
from contract.messages.transfer import CHUNK_BYTES, INLINE_BYTES
from contract.topics import CHUNK, OFFER, Topic, parse
from contract.transfer import make_chunk, make_offer, span
from device_agent.store.outbox import Kind, Outbox, Waiting
from device_agent.transport import Transport

_WINDOW = 16
_PATIENCE_S = 60.0
"""After this time without the gateway's answer an update is sent again."""


class Post:
    """Sends messages of one device.

    Parameters
    ----------
    device_id
        Whose topics are used.
    outbox
        What must arrive.
    transport
        The link, ``None`` for a device that stands alone.
    inline_bytes
        A larger payload is offered and pulled in chunks.
    clock
        Monotonic seconds.

    Attributes
    ----------
    counters
        Messages that could not be encoded, by reason.
    """

    def __init__(
        self,
        device_id: str,
        outbox: Outbox,
        transport: Transport | None,
        *,
        inline_bytes: int = INLINE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters: dict[str, int] = {}
        self._device_id = device_id
        self._outbox = outbox
        self._transport = transport
        self._in_flight: dict[int, str] = {}
        # Updates that the broker has and the gateway has not answered yet, and since when.
        self._unanswered: dict[str, float] = {}
        self._inline_bytes = inline_bytes
        self._clock = clock
        self._offers: dict[str, BlobOffer] = {}

    @property
    def online(self) -> bool:
        """Whether the broker hears us."""
        return self._transport is not None and self._transport.connected

    def say(self, topic: Topic, message: Message, *, echo: bytes | None = None) -> None:
        """Publish now if the broker hears us; what is retained or periodic is said again anyway.

        ``echo`` is the correlation of the request that the message answers.
        """
        if not self.online or self._transport is None:
            return
        payload = self._encode(message)
        if payload is not None:
            where = topic.of(device=self._device_id)
            extras = extras_of(topic, where, message, echo=echo)
            self._transport.publish(where, payload, qos=topic.qos, retain=topic.retain, extras=extras)

    def keep(self, kind: Kind, topic: Topic, messages: dict[str, Message]) -> None:
        """Put messages into the outbox by their keys; a device without a broker keeps none."""
        if self._transport is None:
            return
        where = topic.of(device=self._device_id)
        encoded = {key: payload for key, m in messages.items() if (payload := self._encode(m)) is not None}
        self._outbox.put(*[Waiting(key, kind, where, payload) for key, payload in encoded.items()])

    def replace(self, kind: Kind, topic: Topic, key: str, message: Message) -> None:
        """Put a message into the outbox in place of an older one under the same key."""
        self.settle(key)
        self.keep(kind, topic, {key: message})

    def settle(self, key: str) -> None:
        """Forget a message."""
        self._unanswered.pop(key, None)
        self._offers.pop(key, None)
        self._outbox.settle(key)

    def resend(self, key: str) -> None:
        """Send an update again with the next :meth:`flush`."""
        self._unanswered.pop(key, None)

    def supply(self, request: BlobRequest, correlation: bytes | None = None) -> None:
        """Send the chunks that the gateway asks for; what is not offered is counted."""
        key = next((key for key, offer in self._offers.items() if offer.digest == request.digest), None)
        if key is None:
            self._count("pull-unknown")
            return
        offer = self._offers[key]
        if key in self._unanswered:
            self._unanswered[key] = self._clock()
        for index in request.wanted:
            data = self._outbox.part(key, *span(offer, index))
            if data:
                self.say(CHUNK, make_chunk(offer.digest, index, data), echo=correlation)

    def flush(self) -> None:
        """Send what waits, a window at a time."""
        if not self.online or self._transport is None or not len(self._outbox):
            return
        room = _WINDOW - len(self._in_flight)
        now_s = self._clock()
        self._unanswered = {k: at for k, at in self._unanswered.items() if now_s - at < _PATIENCE_S}
        busy = frozenset(self._in_flight.values()) | self._unanswered.keys()
        if room <= 0 or len(busy) >= len(self._outbox):
            return
        for message in self._outbox.pending(without=busy, limit=room):
            handle = self._send(message)
            if handle is not None:
                self._in_flight[handle] = message.key
            elif self._transport.connected:
                # Too large for any broker: waiting longer changes nothing.
                self._outbox.settle(message.key)

    def delivered(self, handle: int) -> None:
        """Take the broker's acknowledgement: alerts and reports have arrived, updates wait for the gateway's word."""
        key = self._in_flight.pop(handle, None)
        if key is None:
            return
        if key in self._outbox.keys("update"):
            self._unanswered[key] = self._clock()
        else:
            self._outbox.settle(key)

    def _send(self, message: Waiting) -> int | None:
        if self._transport is None:
            return None
        if message.kind != "update" or len(message.payload) <= self._inline_bytes:
            return self._transport.publish(message.topic, message.payload, qos=1, extras=_extras(message))
        chunk_bytes = min(CHUNK_BYTES, self._inline_bytes)
        offer = make_offer("update", message.key, message.payload, chunk_bytes=chunk_bytes)
        self._offers[message.key] = offer
        where = OFFER.of(device=self._device_id)
        return self._transport.publish(where, codec.encode(offer), qos=1, extras=extras_of(OFFER, where, offer))

    def _encode(self, message: Message) -> bytes | None:
        try:
            return codec.encode(message)
        except ContractError as error:
            self._count(f"encode-{error.reason}")
            return None

    def _count(self, reason: str) -> None:
        self.counters[reason] = self.counters.get(reason, 0) + 1


def _extras(message: Waiting) -> Extras:
    """Return what to say about a message of the outbox, which is known by its topic and key alone."""
    try:
        row = parse(message.topic).topic
    except ContractError:
        # Written by an earlier version of the agent; it is sent as it is.
        return NONE
    answered = response_topic(row, message.topic)
    expiry_s = row.expiry if isinstance(row.expiry, int) else None
    return Extras(expiry_s, answered, message.key.encode() if answered else None)
