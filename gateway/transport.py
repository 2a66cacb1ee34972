"""The gateway's end of MQTT; the only module that knows paho.

Callbacks of paho only put events into the service's queue. A message is acknowledged after the service has handled
it, so what is not stored yet comes again. Nothing is queued for a broker that is away: on every connection the service
publishes all retained state anew, and devices repeat what they have no receipt for.
"""

import contextlib
import ssl
import time
from dataclasses import dataclass
from queue import Full, Queue
from threading import Thread
from typing import Any, Literal

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from contract.codec import encode
from contract.extras import NONE, Extras, correlation_of
from contract.messages import GatewayState, Message
from contract.topics import (
    ACTIVE,
    ALERT,
    ANY_BIRTH,
    BIRTH,
    CHUNK,
    DECLINE,
    FETCH,
    GATEWAY_STATE,
    LOSSES,
    OFFER,
    REPORT,
    SIGNATURE,
    STATUS,
    TELEMETRY,
    UPDATE,
)
from gateway.config import BrokerConfig
from gateway.errors import ConfigError

SUBSCRIPTIONS = (STATUS, SIGNATURE, TELEMETRY, UPDATE, DECLINE, ALERT, ACTIVE, REPORT, LOSSES, OFFER, CHUNK, FETCH)
_PACKET_OVERHEAD_BYTES = 64
_LONGEST_RETRY_S = 15
_INFLIGHT = 100
_LONGEST_END_S = 1.2
_LONGEST_GREETING_S = 3.0
_RECEIVE_MAXIMUM = 64
_LOOK_AT_FILES_S = 5.0


@dataclass(frozen=True, slots=True)
class Connected:
    """The session is up and the subscriptions are sent."""

    protocol: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone, or was refused; paho tries again."""

    reason: str


@dataclass(frozen=True, slots=True)
class MessageArrived:
    """Bytes from a peer; ``token`` goes back to ``acknowledge``."""

    topic: str
    payload: bytes
    token: tuple[int, int, int]
    correlation: bytes | None = None


TransportEvent = Connected | Disconnected | MessageArrived


class Transport:
    """A connection that keeps itself alive.

    Parameters
    ----------
    broker
        Where the broker is.
    password
        Of ``broker.username``.
    state
        What is retained on ``gateway/state`` while connected; its last will says offline.
    queue
        Where events go; a full queue drops QoS 0 messages (counted) and leaves others unacknowledged.
    """

    def __init__(self, broker: BrokerConfig, password: str | None, state: GatewayState, queue: Queue[Any]) -> None:
        self._broker = broker
        self._password = password
        self._state = state
        self._queue = queue
        self._connection = 0
        self._answered = False
        self._opened_at: float | None = None
        self._protocol = mqtt.MQTTv311 if broker.protocol == "3.1.1" else mqtt.MQTTv5
        self._downgrade = False
        self._tls = _tls_context(broker) if broker.ca_file else None
        self._certificate_at = _changed_at(broker)
        self._looked_at = time.monotonic()
        self._client = self._make_client()
        self.dropped = 0

    def start(self) -> None:
        """Begin to connect, and return at once."""
        properties = None
        clean: bool | Literal[3] = mqtt.MQTT_CLEAN_START_FIRST_ONLY
        if self._protocol == mqtt.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = self._broker.session_expiry_s
            properties.MaximumPacketSize = self._broker.max_packet_bytes
            # What is not stored yet waits at the broker, not in this process.
            properties.ReceiveMaximum = _RECEIVE_MAXIMUM
            clean = False
        self._client.connect_async(
            self._broker.host, self._broker.port, self._broker.keepalive_s, clean_start=clean, properties=properties
        )
        self._client.loop_start()

    def tick(self) -> None:
        """Change to MQTT 3.1.1 if the broker turned MQTT 5 away, or left the greeting without an answer."""
        self._follow_renewal()
        opened = self._opened_at
        if opened is not None and time.monotonic() - opened > _LONGEST_GREETING_S:
            self._opened_at = None
            self._refuse_v5()
        if self._downgrade:
            self._end_client()
            # The end of the old client may have asked for the change once more; a second change would open a second
            # connection under the same id, which amqtt answers by keeping neither.
            self._downgrade = False
            self._protocol = mqtt.MQTTv311
            self._client = self._make_client()
            self.start()

    @property
    def connected(self) -> bool:
        """Whether messages would go out now."""
        return self._client.is_connected()

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool, extras: Extras = NONE) -> str | None:
        """Publish, and return why not if it does not go out.

        Returns
        -------
        str or None
            ``offline`` or ``oversize``. A packet over the limit would make the broker end the connection, and paho
            would send it again for ever.
        """
        if len(payload) + len(topic) + _PACKET_OVERHEAD_BYTES > self._broker.max_packet_bytes:
            return "oversize"
        if not self.connected:
            return "offline"
        properties = _properties(extras) if self._protocol == mqtt.MQTTv5 else None
        self._client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        return None

    def acknowledge(self, token: tuple[int, int, int]) -> None:
        """Tell the broker that a message is dealt with; one of an earlier connection will come again."""
        connection, mid, qos = token
        if qos and connection == self._connection:
            self._client.ack(mid, qos)

    def stop(self, *, timeout_s: float) -> None:
        """Say offline and disconnect."""
        if self.connected:
            offline = self._state.model_copy(update={"online": False})
            info = self._client.publish(GATEWAY_STATE.of(), encode(offline), qos=1, retain=True)
            with contextlib.suppress(RuntimeError, ValueError):
                info.wait_for_publish(timeout_s)
        self._end_client()

    def _follow_renewal(self) -> None:
        """Take a renewed certificate for the next connection; the present one, and its session, go on."""
        now = time.monotonic()
        broker = self._broker
        if self._tls is None or broker.cert_file is None or now - self._looked_at < _LOOK_AT_FILES_S:
            return
        self._looked_at = now
        changed_at = _changed_at(broker)
        if changed_at and changed_at != self._certificate_at:
            self._certificate_at = changed_at
            with contextlib.suppress(OSError, ssl.SSLError):
                self._tls.load_cert_chain(broker.cert_file, broker.key_file)

    def _end_client(self) -> None:
        self._connection += 1
        self._client.disconnect()
        # paho's thread may sit in a connection attempt that nobody can interrupt; it is a daemon thread.
        ending = Thread(target=self._client.loop_stop, daemon=True)
        ending.start()
        ending.join(_LONGEST_END_S)

    def _make_client(self) -> mqtt.Client:
        v5 = self._protocol == mqtt.MQTTv5
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._broker.client_id,
            protocol=self._protocol,
            clean_session=None if v5 else False,
            manual_ack=True,
        )
        if self._broker.username is not None:
            client.username_pw_set(self._broker.username, self._password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        offline: Message = self._state.model_copy(update={"online": False})
        client.will_set(GATEWAY_STATE.of(), encode(offline), qos=1, retain=True)
        client.reconnect_delay_set(1, _LONGEST_RETRY_S)
        client.max_inflight_messages_set(_INFLIGHT)
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    # A client that was replaced may still call back; it has no say any more.

    def _on_socket_open(self, client: mqtt.Client, _data: Any, _socket: Any) -> None:
        if client is self._client:
            self._opened_at = time.monotonic()

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if client is not self._client:
            return
        self._answered = True
        self._opened_at = None
        if reason.is_failure:
            if self._protocol == mqtt.MQTTv5 and "protocol" in str(reason).lower():
                self._refuse_v5()
            self._put(Disconnected(f"refused: {reason}"))
            return
        self._connection += 1
        wanted: list[tuple[str, int]] = [(ANY_BIRTH, BIRTH.qos)]
        wanted += [(topic.wildcard, topic.qos) for topic in SUBSCRIPTIONS]
        client.subscribe(wanted)
        self._put(Connected("5" if self._protocol == mqtt.MQTTv5 else "3.1.1"))

    def _on_connect_fail(self, client: mqtt.Client, _data: Any) -> None:
        if client is self._client:
            self._put(Disconnected("no answer"))

    def _on_disconnect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if client is not self._client:
            return
        if not self._answered:
            # A broker that only knows 3.1.1 may hang up on an MQTT 5 greeting without a word.
            self._refuse_v5()
        self._connection += 1
        self._answered = False
        self._opened_at = None
        self._put(Disconnected(str(reason)))

    def _refuse_v5(self) -> None:
        if self._broker.protocol == "auto" and self._protocol == mqtt.MQTTv5:
            self._downgrade = True

    def _on_message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        if client is not self._client:
            return
        token = (self._connection, message.mid, message.qos)
        self._put(MessageArrived(message.topic, bytes(message.payload), token, correlation_of(message.properties)))

    def _put(self, event: TransportEvent) -> None:
        try:
            self._queue.put_nowait(event)
        except Full:
            self.dropped += 1


def _properties(extras: Extras) -> Properties | None:
    if extras == NONE:
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for name, value in extras.properties().items():
        setattr(properties, name, value)
    return properties


def _tls_context(broker: BrokerConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=broker.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if broker.cert_file is not None:
            context.load_cert_chain(broker.cert_file, broker.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"broker.ca_file, cert_file, key_file: cannot be used: {error}") from None
    return context


def _changed_at(broker: BrokerConfig) -> int:
    """Return when the certificate was replaced, 0 if there is none."""
    with contextlib.suppress(OSError):
        if broker.cert_file is not None:
            return broker.cert_file.stat().st_mtime_ns
    return 0
