"""What the agent's integration tests share: captures, a broker, an agent process, and a gateway played by hand."""

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from contract import codec
from contract.canonical import sha256_hex
from contract.initial import initial_theta
from contract.messages import Assignment, GatewayState, Release, RoundTask, TrainTarget
from contract.model import DEFAULT_SPEC, ModelId, ReleaseManifest, weights_digest, weights_to_bytes
from contract.topics import GATEWAY_STATE, RELEASE, ROOT, parse
from testbed.traffic.scenario import DeviceScenario, Episode
from testbed.traffic.writer import write_capture

DEVICE = "cam-1"
LEARN_S = 600.0
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
RAW_KEY = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def wait_for(condition, seconds=20.0):
    """Return the first true value of ``condition()``; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {getattr(condition, '__name__', condition)}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_capture(folder):
    """Write ten minutes of a camera's own traffic, then a port scan; return both parts as pcap bytes and records."""
    path = folder / "whole.pcap"
    scan = Episode("port_scan", LEARN_S + 40, LEARN_S + 70)
    write_capture(DeviceScenario(DEVICE, "camera", 7, 12, learn_s=LEARN_S, exam_s=120, episodes=(scan,)), path)
    data = path.read_bytes()
    first_s = struct.unpack_from("<I", data, 24)[0]
    at = 24
    while struct.unpack_from("<I", data, at)[0] - first_s < LEARN_S + 20:
        at += 16 + struct.unpack_from("<I", data, at + 8)[0]
    return data[:at], data[at:]


class Broker:
    """A Mosquitto on loopback that keeps its state over :meth:`stop` and :meth:`start`."""

    def __init__(self, folder, port):
        self.port = port
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {folder}/\n"
            "max_packet_size 2000000\nuser root\n",
            encoding="utf-8",
        )
        self._process = None

    def start(self):
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(self._answers)
        return self

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def _answers(self):
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=0.5):
            return True
        return False


class Agent:
    """An agent process with its own directory; its capture is a FIFO that this object writes."""

    def __init__(self, folder, *, port=None, extra=""):
        self.folder = folder
        self.fifo = folder / "traffic.pcap"
        self.alerts = folder / "state" / "eve.json"
        self.log_path = folder / "agent.log"
        self.process = None
        self._writer = None
        (folder / "release.pub").write_text(RAW_KEY.hex(), encoding="ascii")
        os.mkfifo(self.fifo)
        broker = f'[broker]\nhost = "127.0.0.1"\nport = {port}\n' if port else ""
        (folder / "agent.toml").write_text(
            f'[device]\nid = "{DEVICE}"\n{broker}[capture]\nsource = "traffic.pcap"\n[store]\ndir = "state"\n'
            '[trust]\nkeys = ["release.pub"]\n[training]\nmin_benign_rows = 60\n[telemetry]\nevery_s = 0.3\n'
            f"{extra}",
            encoding="utf-8",
        )

    def start(self):
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "device_agent", "run", "--config", str(self.folder / "agent.toml")], stderr=log
            )
        return self

    def feed(self, data):
        if self._writer is None:
            self._writer = self.fifo.open("wb")
        self._writer.write(data)
        self._writer.flush()

    def end_capture(self):
        if self._writer is not None:
            with suppress(BrokenPipeError):
                self._writer.close()
            self._writer = None

    def log(self):
        return self.log_path.read_text(encoding="utf-8")

    def wait_log(self, text, seconds=20.0):
        wait_for(lambda: text in self.log(), seconds)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self.end_capture()

    def terminate(self):
        """Stop like a supervisor does; return seconds it took and the exit code."""
        began_s = time.monotonic()
        self.process.terminate()
        code = self.process.wait(10)
        self.end_capture()
        return time.monotonic() - began_s, code

    def children(self):
        """Return the ids of the process' children."""
        listing = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        found = set()
        for task in listing.parent.parent.iterdir():
            found |= {int(pid) for pid in (task / "children").read_text(encoding="ascii").split()}
        return found

    def alert_lines(self):
        return self.alerts.read_text(encoding="utf-8").splitlines() if self.alerts.exists() else []


class HandMadeGateway:
    """Publishes what a test wants and collects what the device says."""

    def __init__(self, port, *, protocol=MQTTProtocolVersion.MQTTv5):
        self.messages = []
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="hand-gateway", protocol=protocol)
        self._client.on_message = self._take
        self._connected = False
        self._client.on_connect = self._subscribe
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        wait_for(lambda: self._connected)

    def _subscribe(self, client, *_rest):
        client.subscribe(f"{ROOT}/device/{DEVICE}/#", qos=1)
        self._connected = True

    def _take(self, _client, _data, message):
        parsed = parse(message.topic)
        if message.payload and parsed.topic.publisher == "device":
            self.messages.append(codec.decode(parsed.topic.message, message.payload))

    def of(self, kind):
        return [message for message in self.messages if isinstance(message, kind)]

    def first(self, kind, where=lambda _message: True, seconds=25.0):
        return wait_for(lambda: next(filter(where, self.of(kind)), None), seconds)

    def say(self, topic, message, **parts):
        info = self._client.publish(topic.of(**parts), codec.encode(message), qos=1, retain=topic.retain)
        info.wait_for_publish(5)

    def online(self, session="g-1"):
        self.say(
            GATEWAY_STATE,
            GatewayState(online=True, session=session, contract_version="1.0", gateway_version="test"),
        )

    def publish_release(self, seed, *, role="fallback", key=KEY):
        """Publish signed weights; return their model id."""
        theta = initial_theta(DEFAULT_SPEC.layout, seed)
        family = "family-1" if role == "expert" else None
        manifest = ReleaseManifest(
            weights_digest=weights_digest(theta),
            spec_id=DEFAULT_SPEC.spec_id,
            n_parameters=DEFAULT_SPEC.n_parameters,
            role=role,
            family_id=family,
            round_number=1,
            parent=None,
        )
        raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        release = Release(
            manifest=manifest,
            key_id=sha256_hex(raw)[:16],
            signature=key.sign(manifest.signed_bytes()),
            weights=weights_to_bytes(theta),
        )
        self.say(RELEASE, release, digest=manifest.weights_digest)
        return ModelId(role=role, family_id=family, digest=manifest.weights_digest)

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


def make_task(base, *, number=1, deadline_s=60.0):
    return RoundTask(
        round_id=f"round-{number:06d}",
        round_number=number,
        device_id=DEVICE,
        spec_id=DEFAULT_SPEC.spec_id,
        targets=(TrainTarget(role="fallback", base=base.digest),),
        local_epochs=2,
        learning_rate=0.002,
        proximal_mu=0.0,
        recon_weight=0.5,
        seed=11,
        deadline_s=deadline_s,
    )


def make_assignment(version, fallback, expert=None):
    return Assignment(
        device_id=DEVICE,
        version=version,
        family_id="family-1" if expert else None,
        reason="a test",
        fallback=fallback,
        expert=expert,
    )


def is_finite_delta(update):
    delta = np.frombuffer(update.delta, dtype="<f4")
    return len(delta) == DEFAULT_SPEC.n_parameters and bool(np.isfinite(delta).all()) and bool(np.any(delta))
