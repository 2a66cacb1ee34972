"""MQTT on the agent: the only module here that knows paho.

Callbacks run in paho's thread and only enqueue; the agent's loop takes what came from :meth:`Transport.take`. MQTT 5 is
tried first; a broker that refuses it, closes twice without an answer or stays silent is spoken to in 3.1.1 from then
on.

Longer than other modules: paho's callbacks and what they feed share one connection's state.
"""

import random
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from contract.extras import NONE, Extras, correlation_of

MAX_PACKET_BYTES = 1_048_576
"""Largest payload that is published; a QoS 1 message over a broker's limit would be sent for ever."""
_SESSION_S = 86_400
_SILENT_CLOSES = 2
_ANSWER_S = 3.0
_BACKOFF_S = (0.5, 1.5)
_BACKOFF_MAX_S = 30
_INBOX = 4_096
_RECEIVE_MAXIMUM = 16
_LOOK_AT_FILES_S = 5.0


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The broker accepted the connection."""

    protocol: str


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The connection is gone, or was refused; ``reason`` is for the log."""

    reason: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message."""

    topic: str
    payload: bytes
    correlation: bytes | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """The broker has the publication with this handle."""

    handle: int


TransportEvent = LinkUp | LinkDown | Arrived | Delivered


@dataclass(frozen=True, slots=True)
class Link:
    """How to reach the broker.

    Attributes
    ----------
    host, port, keepalive_s
        Address and keep-alive.
    client_id, username, password
        Who we are.
    ca_file, cert_file, key_file
        TLS; without ``ca_file`` plain TCP.
    will_topic, will_payload
        What the broker publishes (retained) when the device vanishes.
    """

    host: str
    port: int
    client_id: str
    will_topic: str
    will_payload: bytes
    keepalive_s: int = 30
    username: str | None = None
    password: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class Transport:
    """One connection that comes back by itself.

    Parameters
    ----------
    link
        Where and as whom.
    topics
        Subscribed at every connect.
    wake
        Called from paho's thread whenever something waits.

    Attributes
    ----------
    counters
        Refusals and drops by reason.
    connected
        Whether the broker has accepted us.
    """

    def __init__(self, link: Link, topics: tuple[str, ...], *, wake: Callable[[], None] = lambda: None) -> None:
        self.counters: dict[str, int] = {}
        self.connected = False
        self._link = link
        self._topics = topics
        self._wake = wake
        self._inbox: Queue[TransportEvent] = Queue(_INBOX)
        self._silent_closes = 0
        self._answered = False
        self._opened_s: float | None = None
        self._rebuild = threading.Event()
        self._tls = _tls_context(link) if link.ca_file else None
        self._identity = _stamp(link)
        self._looked_s = time.monotonic()
        self._client = self._build(MQTTProtocolVersion.MQTTv5)

    def start(self) -> None:
        """Begin to connect; a broker that is not there is tried again with growing pauses."""
        clean: dict[str, Any] = {}
        if self._client.protocol == MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = _SESSION_S
            properties.ReceiveMaximum = _RECEIVE_MAXIMUM
            clean = {"clean_start": False, "properties": properties}
        self._client.connect_async(self._link.host, self._link.port, keepalive=self._link.keepalive_s, **clean)
        self._client.loop_start()

    def take(self) -> list[TransportEvent]:
        """Return what came since the last call; steps down to MQTT 3.1.1 if the broker wants that."""
        self._follow_renewal()
        opened_s = self._opened_s
        silent = opened_s is not None and time.monotonic() - opened_s > _ANSWER_S
        if self._rebuild.is_set() or (silent and self._client.protocol == MQTTProtocolVersion.MQTTv5):
            self._speak_3_1_1()
        events: list[TransportEvent] = []
        while True:
            try:
                events.append(self._inbox.get_nowait())
            except Empty:
                return events

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, extras: Extras = NONE
    ) -> int | None:
        """Publish; return a handle that :class:`Delivered` names, ``None`` (counted) if it was refused."""
        if len(payload) > MAX_PACKET_BYTES:
            self._count("publish-oversize")
            return None
        if not self.connected:
            self._count("publish-offline")
            return None
        properties = _properties(extras) if self._client.protocol == MQTTProtocolVersion.MQTTv5 else None
        info = self._client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._count("publish-refused")
            # paho keeps a QoS 1 message and sends it after the reconnect; its handle stays good.
            return info.mid if qos and info.rc == MQTTErrorCode.MQTT_ERR_NO_CONN else None
        return info.mid

    def subscribe(self, topic: str) -> None:
        """Subscribe until the next disconnect; the caller repeats it after a connect."""
        if self.connected:
            self._client.subscribe(topic, qos=1)

    def unsubscribe(self, topic: str) -> None:
        """Leave a topic."""
        if self.connected:
            self._client.unsubscribe(topic)

    def stop(self, *, topic: str = "", last_words: bytes = b"", patience_s: float = 0.5) -> None:
        """Publish last words (retained), disconnect and end the thread."""
        if self.connected:
            if last_words:
                info = self._client.publish(topic, last_words, qos=1, retain=True)
                try:
                    info.wait_for_publish(patience_s)
                except (RuntimeError, ValueError):
                    self._count("last-words-lost")
            self._client.disconnect()
        self._client.loop_stop()
        self.connected = False

    def _build(self, protocol: MQTTProtocolVersion) -> Client:
        link = self._link
        keep_session = None if protocol == MQTTProtocolVersion.MQTTv5 else False
        client = Client(
            CallbackAPIVersion.VERSION2, client_id=link.client_id, clean_session=keep_session, protocol=protocol
        )
        if link.username:
            client.username_pw_set(link.username, link.password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.will_set(link.will_topic, link.will_payload, qos=1, retain=True)
        # Each process doubles its own first pause, so that a rack does not come back all at once.
        first = random.uniform(*_BACKOFF_S)  # noqa: S311
        client.reconnect_delay_set(first, _BACKOFF_MAX_S)  # type: ignore[arg-type]  # any number of seconds works
        client.max_queued_messages_set(256)
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_connect_fail = self._on_connect_fail
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _follow_renewal(self) -> None:
        """Take a renewed certificate for the next connection; the present one, and its session, go on."""
        now_s = time.monotonic()
        if self._tls is None or self._link.cert_file is None or now_s - self._looked_s < _LOOK_AT_FILES_S:
            return
        self._looked_s = now_s
        stamp = _stamp(self._link)
        if stamp and stamp != self._identity:
            try:
                self._tls.load_cert_chain(self._link.cert_file, self._link.key_file)
            except (OSError, ssl.SSLError):
                self._count("renewed-certificate-unusable")
            self._identity = stamp

    def _speak_3_1_1(self) -> None:
        """Replace the client by one of the older protocol."""
        self._client.on_disconnect = None
        self._client.disconnect()
        self._client.loop_stop()
        self._rebuild.clear()
        self._opened_s = None
        self._client = self._build(MQTTProtocolVersion.MQTTv311)
        self.start()

    def _put(self, event: TransportEvent) -> None:
        try:
            self._inbox.put_nowait(event)
        except Full:
            self._count("inbox-full")
        self._wake()

    def _count(self, reason: str) -> None:
        self.counters[reason] = self.counters.get(reason, 0) + 1

    def _on_socket_open(self, _client: Client, _data: object, _socket: object) -> None:
        self._opened_s = time.monotonic()

    def _on_connect(self, client: Client, _data: object, _flags: ConnectFlags, code: ReasonCode, _p: object) -> None:
        self._answered = True
        self._opened_s = None
        if code.is_failure:
            if client.protocol == MQTTProtocolVersion.MQTTv5 and "protocol" in str(code).lower():
                self._step_down()
            else:
                self._count("connect-refused")
            self._put(LinkDown(str(code)))
            return
        self._silent_closes = 0
        v5 = client.protocol == MQTTProtocolVersion.MQTTv5
        # Own publications are nothing we want back; retained flags and states come as the topic table says.
        wanted = [(t, SubscribeOptions(qos=1) if v5 else 1) for t in self._topics]
        client.subscribe(wanted)  # type: ignore[arg-type]  # paho's hint knows only one of its two forms
        self.connected = True
        self._put(LinkUp("5" if v5 else "3.1.1"))

    def _on_disconnect(
        self, client: Client, _data: object, _flags: DisconnectFlags, code: ReasonCode, _p: object
    ) -> None:
        self.connected = False
        self._opened_s = None
        if not self._answered and client.protocol == MQTTProtocolVersion.MQTTv5:
            self._silent_closes += 1
            if self._silent_closes >= _SILENT_CLOSES:
                self._step_down()
        self._answered = False
        self._put(LinkDown(str(code)))

    def _on_connect_fail(self, _client: Client, _data: object) -> None:
        self._count("connect-failed")
        self._put(LinkDown("no TCP connection"))

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self._put(Arrived(message.topic, bytes(message.payload), correlation_of(message.properties)))

    def _on_publish(self, _client: Client, _data: object, mid: int, code: ReasonCode, _p: object) -> None:
        if code.is_failure:
            # The broker's access rules say no; sending again would change nothing.
            self._count("publish-denied")
        self._put(Delivered(mid))

    def _step_down(self) -> None:
        self._rebuild.set()
        self._wake()


def _properties(extras: Extras) -> Properties | None:
    if extras == NONE:
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for name, value in extras.properties().items():
        setattr(properties, name, value)
    return properties


def _tls_context(link: Link) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=link.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if link.cert_file:
        context.load_cert_chain(link.cert_file, link.key_file)
    return context


def _stamp(link: Link) -> tuple[int, ...]:
    """Return what changes when the certificate is replaced; empty if it cannot be read."""
    with suppress(OSError):
        if link.cert_file:
            found = Path(link.cert_file).stat()
            return (found.st_mtime_ns, found.st_ino, found.st_size)
    return ()
