"""Many devices in one process, each a real MQTT client with its own session: join, answer the task, await the receipt.

One thread drives all sockets of the process through a selector; a thread for every client would measure threads.
"""

import argparse
import json
import selectors
import time
from pathlib import Path
from typing import TextIO

import numpy as np
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from contract.canonical import sha256_hex
from contract.codec import decode, encode
from contract.features import N_FEATURES, SCHEMA_ID
from contract.messages import Birth, Message, ModelUpdate, Receipt, RoundTask, Signature, Status, Telemetry
from contract.model import DEFAULT_SPEC
from contract.signatures import pack_log_std, pack_mean
from contract.topics import BIRTH, RECEIPT, SIGNATURE, STATUS, TASK, TELEMETRY, UPDATE, Topic, parse

_RESEND_S = 60.0


class Device:
    """One client."""

    def __init__(self, device_id: str, port: int, log: TextIO) -> None:
        self.device_id = device_id
        self.sent: dict[str, float] = {}
        self.latencies: list[float] = []
        self.refused: list[str] = []
        self._log = log
        self._seed = int(device_id.rsplit("-", 1)[1])
        self.client = Client(
            CallbackAPIVersion.VERSION2, client_id=device_id, protocol=MQTTProtocolVersion.MQTTv311, clean_session=False
        )
        self.client.on_connect = self._joined
        self.client.on_message = self._heard
        self.client.connect("127.0.0.1", port, keepalive=120)

    def _joined(self, client: Client, *_rest: object) -> None:
        client.subscribe([(TASK.of(device=self.device_id), 1), (RECEIPT.of(device=self.device_id), 1)])
        session = f"s-{self._seed}"
        self._say(
            BIRTH,
            Birth(
                device_id=self.device_id, session=session, contract_version="1.0", agent_version="0", board="load",
                system="load", python="3", engine="numpy", schema_id=SCHEMA_ID, spec_id=DEFAULT_SPEC.spec_id,
            ),
        )  # fmt: skip
        self._say(STATUS, Status(device_id=self.device_id, session=session, state="ready"))
        rng = np.random.default_rng(self._seed)
        values = rng.normal(size=N_FEATURES)
        self._say(
            SIGNATURE,
            Signature(
                device_id=self.device_id,
                schema_id=SCHEMA_ID,
                sequence=1,
                flows=500,
                mean=pack_mean(values),
                log_std=pack_log_std(values),
            ),
        )
        self._say(
            TELEMETRY,
            Telemetry(device_id=self.device_id, session=session, uptime_s=1.0, capture_state="running", train_rows=500),
        )

    def _say(self, topic: Topic, message: Message) -> None:
        self.client.publish(topic.of(device=self.device_id), encode(message), qos=topic.qos, retain=topic.retain)

    def _heard(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        if not message.payload:
            return
        if parse(message.topic).topic is TASK:
            self._answer(decode(RoundTask, message.payload))
        else:
            receipt = decode(Receipt, message.payload)
            if receipt.key in self.sent:
                self.latencies.append(time.monotonic() - self.sent.pop(receipt.key))
                self.refused += [] if receipt.accepted else [receipt.reason]
                self._log.write(json.dumps({"got": receipt.key, "accepted": receipt.accepted}) + "\n")

    def _answer(self, task: RoundTask) -> None:
        rng = np.random.default_rng(self._seed)
        for target in task.targets:
            # Dense noise: 34 kB that no compression makes small.
            delta = (0.01 * rng.normal(size=DEFAULT_SPEC.n_parameters)).astype("<f4").tobytes()
            update = ModelUpdate(
                update_id=f"{task.round_id}-{self.device_id}-{target.role}", round_id=task.round_id,
                device_id=self.device_id, role=target.role, family_id=target.family_id, spec_id=task.spec_id,
                base=target.base, delta=delta, delta_digest=sha256_hex(delta), rows=500, train_seconds=0.1,
            )  # fmt: skip
            self.sent[update.update_id] = time.monotonic()
            self._log.write(json.dumps({"sent": update.update_id, "digest": update.delta_digest}) + "\n")
            self._say(UPDATE, update)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=240.0)
    arguments = parser.parse_args()
    with arguments.out.with_suffix(".log").open("w") as log:
        devices = [
            Device(f"load-{number}", arguments.port, log)
            for number in range(arguments.first, arguments.first + arguments.count)
        ]
        drive(devices, time.monotonic() + arguments.seconds)
        result = {
            "answered": sum(len(d.latencies) for d in devices),
            "waiting": sum(len(d.sent) for d in devices),
            "refused": [reason for d in devices for reason in d.refused],
            "latency_s": sorted(x for d in devices for x in d.latencies),
        }
    arguments.out.write_text(json.dumps(result))


def drive(devices: list[Device], deadline_s: float) -> None:
    """Move bytes until every device has its receipt."""
    selector = selectors.DefaultSelector()
    for device in devices:
        selector.register(device.client.socket(), selectors.EVENT_READ, device)
    last_misc = 0.0
    while time.monotonic() < deadline_s and not all(d.latencies and not d.sent for d in devices):
        for device in devices:
            if device.client.want_write():
                device.client.loop_write()
        for key, _ in selector.select(0.02):
            key.data.client.loop_read()
        if time.monotonic() - last_misc > 1.0:
            last_misc = time.monotonic()
            for device in devices:
                device.client.loop_misc()
    for device in devices:
        device.client.disconnect()


if __name__ == "__main__":
    main()
