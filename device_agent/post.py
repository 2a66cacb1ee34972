"""What the device says: encoding, sending what is due now, and the outbox for what must arrive."""

from contract import codec
from contract.errors import ContractError
from contract.messages import Message
from contract.topics import Topic
from device_agent.store.outbox import Kind, Outbox, Waiting
from device_agent.transport import Transport

_WINDOW = 16


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

    Attributes
    ----------
    counters
        Messages that could not be encoded, by reason.
    """

    def __init__(self, device_id: str, outbox: Outbox, transport: Transport | None) -> None:
        self.counters: dict[str, int] = {}
        self._device_id = device_id
        self._outbox = outbox
        self._transport = transport
        self._in_flight: dict[int, str] = {}
        # Updates that the broker has and the gateway has not answered yet.
        self._unanswered: set[str] = set()

    @property
    def online(self) -> bool:
        """Whether the broker hears us."""
        return self._transport is not None and self._transport.connected

    def say(self, topic: Topic, message: Message) -> None:
        """Publish now if the broker hears us; what is retained or periodic is said again anyway."""
        if not self.online or self._transport is None:
            return
        payload = self._encode(message)
        if payload is not None:
            self._transport.publish(topic.of(device=self._device_id), payload, qos=topic.qos, retain=topic.retain)

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
        self._unanswered.discard(key)
        self._outbox.settle(key)

    def resend(self, key: str) -> None:
        """Send an update again with the next :meth:`flush`."""
        self._unanswered.discard(key)

    def flush(self) -> None:
        """Send what waits, a window at a time."""
        if not self.online or self._transport is None or not len(self._outbox):
            return
        room = _WINDOW - len(self._in_flight)
        busy = frozenset(self._in_flight.values()) | self._unanswered
        if room <= 0 or len(busy) >= len(self._outbox):
            return
        for message in self._outbox.pending(without=busy, limit=room):
            handle = self._transport.publish(message.topic, message.payload, qos=1)
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
            self._unanswered.add(key)
        else:
            self._outbox.settle(key)

    def _encode(self, message: Message) -> bytes | None:
        try:
            return codec.encode(message)
        except ContractError as error:
            reason = f"encode-{error.reason}"
            self.counters[reason] = self.counters.get(reason, 0) + 1
            return None
