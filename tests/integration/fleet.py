"""A scripted fleet: devices that speak the contract over a real broker without an agent behind them."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Condition
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from contract.canonical import sha256_hex
from contract.codec import decode, encode
from contract.features import N_FEATURES, SCHEMA_ID
from contract.messages import (
    Assignment,
    Birth,
    EvaluationRequest,
    LossReport,
    Message,
    ModelLoss,
    ModelUpdate,
    Receipt,
    Release,
    RoundTask,
    Signature,
    Status,
    Telemetry,
)
from contract.model import DEFAULT_SPEC
from contract.quantise import encode_delta
from contract.signatures import pack_log_std, pack_mean
from contract.topics import (
    ASSIGNMENT,
    BIRTH,
    EVALUATION,
    LOSSES,
    RECEIPT,
    ROOT,
    SIGNATURE,
    STATUS,
    TASK,
    TELEMETRY,
    UPDATE,
    Topic,
    parse,
)

WAIT_S = 20.0


def free_port() -> int:
    """Return a TCP port that is free on loopback now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    """Return when something listens on the port."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


def signature_of(device_id: str, profile: int, *, sequence: int = 1, seed: int = 0) -> Signature:
    """Return a signature near that of its profile."""
    means, log_stds = np.random.default_rng(profile).uniform((0.3, -2.5), (2.5, -0.7), (N_FEATURES, 2)).T
    centre = np.concatenate([means, log_stds])
    own = np.random.default_rng([seed, *device_id.encode()]).normal(0.0, 0.05, 2 * N_FEATURES)
    values = centre + own
    return Signature(
        device_id=device_id,
        schema_id=SCHEMA_ID,
        sequence=sequence,
        flows=500,
        mean=pack_mean(values[:N_FEATURES]),
        log_std=pack_log_std(values[N_FEATURES:]),
    )


def updates_for(task: RoundTask, *, scale: float = 0.01) -> list[ModelUpdate]:
    """Return a valid update for each target of a task; a device always answers a task alike."""
    result = []
    for target in task.targets:
        seed = [task.round_number, *task.device_id.encode(), *target.role.encode()]
        delta = np.random.default_rng(seed).normal(0.0, scale, DEFAULT_SPEC.n_parameters).astype(np.float32)
        data = encode_delta(delta, task.delta_encoding)
        result.append(
            ModelUpdate(
                update_id=f"{task.round_id}-{task.device_id}-{target.role}",
                round_id=task.round_id,
                device_id=task.device_id,
                role=target.role,
                family_id=target.family_id,
                spec_id=task.spec_id,
                base=target.base,
                delta_encoding=task.delta_encoding,
                delta=data,
                delta_digest=sha256_hex(data),
                rows=500,
                train_seconds=0.1,
            )
        )
    return result


class Fleet:
    """Devices on one connection, and everything the gateway says, in order."""

    def __init__(self, port: int, device_ids: list[str]) -> None:
        self.device_ids = device_ids
        self.answers = True
        self.repeats = 1
        self.tasks: list[RoundTask] = []
        self.receipts: list[Receipt] = []
        self.assignments: dict[str, Assignment] = {}
        self.releases: dict[str, Release] = {}
        self.cleared: list[str] = []
        self.losses: Callable[[str, str], float] | None = None
        self._news = Condition()
        self._up = False
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="fleet", protocol=mqtt.MQTTv311)
        self._client.on_message = self._on_message
        self._client.on_connect = self._on_connect
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self.wait(lambda: self._up)

    def say(self, topic: Topic, message: Message) -> None:
        """Publish a message on its device's topic."""
        device_id: str = getattr(message, "device_id")  # noqa: B009
        info = self._client.publish(topic.of(device=device_id), encode(message), qos=topic.qos, retain=topic.retain)
        info.wait_for_publish(WAIT_S)

    def join(self, device_id: str, *, profile: int, spec_id: str = DEFAULT_SPEC.spec_id) -> None:
        """Send birth, status, telemetry and signature of a device."""
        session = f"s-{device_id}"
        self.say(
            BIRTH,
            Birth(
                device_id=device_id,
                session=session,
                contract_version="1.0",
                agent_version="0",
                board="test",
                system="test",
                python="3",
                engine="numpy",
                schema_id=SCHEMA_ID,
                spec_id=spec_id,
            ),
        )
        self.say(STATUS, Status(device_id=device_id, session=session, state="ready"))
        self.say(SIGNATURE, signature_of(device_id, profile))
        self.say(
            TELEMETRY,
            Telemetry(device_id=device_id, session=session, uptime_s=1.0, capture_state="running", train_rows=500),
        )

    def answer(self, task: RoundTask) -> None:
        """Send the updates of a task, each as often as ``repeats`` says."""
        for update in updates_for(task):
            for _ in range(self.repeats):
                self._client.publish(UPDATE.of(device=task.device_id), encode(update), qos=1)

    def _report(self, request: EvaluationRequest) -> None:
        """Answer a question with what ``losses(own family, asked family)`` says."""
        assert self.losses is not None
        own, *_ = families = [str(model.family_id) for model in request.models]
        base = self.losses(own, own)
        losses = [self.losses(own, family) for family in families]
        report = LossReport(
            device_id=request.device_id,
            request=request.request,
            rows=200,
            reason="measured",
            losses=tuple(
                ModelLoss(model=model, loss=loss, gain=(base - loss) / base, z=0.0)
                for model, loss in zip(request.models, losses, strict=True)
            ),
        )
        self._client.publish(LOSSES.of(device=request.device_id), encode(report), qos=1)

    def wait(self, met: Callable[[], Any], *, timeout_s: float = WAIT_S) -> None:
        """Return when ``met()`` is true; it is asked after every message."""
        with self._news:
            if not self._news.wait_for(met, timeout_s):
                raise TimeoutError("the gateway did not do what the test waits for")

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe([(f"{ROOT}/device/+/+", 1), (f"{ROOT}/model/+", 1)])
        with self._news:
            self._up = True
            self._news.notify_all()

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        parsed = parse(message.topic)
        with self._news:
            self._take(parsed.topic, parsed.digest, message.payload)
            self._news.notify_all()

    def _take(self, topic: Topic, digest: str | None, payload: bytes) -> None:
        if topic.name == "model" and digest is not None:
            if payload:
                self.releases[digest] = decode(Release, payload)
            else:
                self.cleared.append(digest)
        elif topic is TASK and payload:
            task = decode(RoundTask, payload)
            self.tasks.append(task)
            if self.answers:
                self.answer(task)
        elif topic is EVALUATION and self.losses is not None:
            self._report(decode(EvaluationRequest, payload))
        elif topic is RECEIPT:
            self.receipts.append(decode(Receipt, payload))
        elif topic is ASSIGNMENT and payload:
            assignment = decode(Assignment, payload)
            self.assignments[assignment.device_id] = assignment


class Gateway:
    """The real program in its own process."""

    def __init__(self, directory: Path, port: int, *, rounds: str, families: str = "", extra: str = "") -> None:
        self.config = directory / "gateway.toml"
        self.log = directory / "gateway.log"
        self.config.write_text(
            f'seed = 3\n[broker]\nport = {port}\n[store]\ndir = "state"\n[signing]\ndir = "keys"\n'
            f"[rounds]\n{rounds}\n[families]\n{families}\n{extra}\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "run", "--config", str(self.config)], stderr=log
            )

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """End it politely and return its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(10)
