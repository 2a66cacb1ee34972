"""The harness' MQTT client: listens to the whole fleet, publishes marks and commands. The only user of paho here."""

import queue
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from contract import topics
from contract.codec import encode
from contract.exit_codes import ExitCode
from contract.messages import MarkSet, RunCommand
from testbed.errors import HarnessError

_INBOX = 20_000
_CONNECT_TIMEOUT_S = 10.0
_PUBLISH_TIMEOUT_S = 10.0
HEARD = tuple(topic for topic in topics.TOPICS if "harness" in topic.readers)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as it came in.

    Attributes
    ----------
    topic, payload
        Undecoded; an empty payload clears a retained message.
    """

    topic: str
    payload: bytes


class HarnessClient:
    """A connection that survives the broker's pauses and subscribes again by itself.

    Parameters
    ----------
    host, port
        The broker.
    client_id
        MQTT client id.
    """

    def __init__(self, host: str, port: int, *, client_id: str) -> None:
        self._address = (host, port)
        self._inbox: queue.Queue[Incoming] = queue.Queue(_INBOX)
        self._subscribed: queue.Queue[bool] = queue.Queue()
        self.dropped = 0
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv311, clean_session=True
        )
        self._client.reconnect_delay_set(1, 5)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        """Connect and subscribe.

        Raises
        ------
        HarnessError
            If the broker does not confirm the subscriptions in time.
        """
        try:
            self._client.connect(*self._address, keepalive=30)
            self._client.loop_start()
            self._subscribed.get(timeout=_CONNECT_TIMEOUT_S)
        except (OSError, queue.Empty) as error:
            self._client.loop_stop()
            raise HarnessError(
                f"the broker at {self._address[0]}:{self._address[1]} does not answer: {str(error) or 'timeout'}",
                code=ExitCode.BROKER_UNREACHABLE,
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def receive(self, timeout_s: float) -> Incoming | None:
        """Return the next message, or ``None`` after ``timeout_s`` without one."""
        try:
            return self._inbox.get(timeout=timeout_s) if timeout_s > 0 else self._inbox.get_nowait()
        except queue.Empty:
            return None

    def publish_marks(self, marks: MarkSet) -> None:
        """Publish the ground truth of a device, retained.

        Raises
        ------
        HarnessError
            If the broker does not confirm it.
        """
        topic = topics.MARKS.of(run=marks.run_id, device=marks.device_id)
        self._publish(topic, encode(marks), retain=topics.MARKS.retain)

    def publish_command(self, command: RunCommand) -> None:
        """Publish a command to all devices of the run.

        Raises
        ------
        HarnessError
            If the broker does not confirm it.
        """
        self._publish(topics.COMMAND.of(run=command.run_id), encode(command), retain=topics.COMMAND.retain)

    def _publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        if info.rc not in {MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN}:
            raise HarnessError(f"cannot publish on {topic}: {info.rc.name}", code=ExitCode.BROKER_UNREACHABLE)
        info.wait_for_publish(_PUBLISH_TIMEOUT_S)
        if not info.is_published():
            raise HarnessError(f"the broker did not confirm {topic}", code=ExitCode.BROKER_UNREACHABLE)

    def _on_connect(
        self, client: mqtt.Client, _data: object, _flags: mqtt.ConnectFlags, reason: ReasonCode, _properties: object
    ) -> None:
        if not reason.is_failure:
            client.subscribe([(topic.wildcard, 1) for topic in HEARD])

    def _on_subscribe(
        self, _client: mqtt.Client, _data: object, _mid: int, _reasons: list[ReasonCode], _properties: object
    ) -> None:
        self._subscribed.put(True)

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        try:
            self._inbox.put_nowait(Incoming(message.topic, bytes(message.payload)))
        except queue.Full:
            self.dropped += 1
