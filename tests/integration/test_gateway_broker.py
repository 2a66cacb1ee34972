"""The gateway as a process against a real Mosquitto, with scripted devices."""

import contextlib
import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from contract.canonical import sha256_hex
from contract.codec import decode, encode
from contract.exit_codes import ExitCode
from contract.messages import GatewayState, ModelUpdate
from contract.topics import GATEWAY_STATE, UPDATE
from tests.integration.fleet import Fleet, Gateway, free_port, updates_for, wait_for_port

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed; apt-get install mosquitto"),
]

CAMERAS = [f"cam-{i}" for i in range(4)]
PLUGS = [f"plug-{i}" for i in range(4)]
ODD = ["odd-0", "odd-1"]
PROFILE = {"cam": 1, "plug": 2}
FAST = "interval_s = 0\ndeadline_s = 15\nmin_rows = 100"


@pytest.fixture
def broker():
    """A broker of its own on a free loopback port."""
    port = free_port()
    with subprocess.Popen([MOSQUITTO, "-p", str(port)], stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_port(port)
            yield port
        finally:
            process.terminate()


@pytest.fixture
def start(tmp_path, broker):
    """Start gateways and fleets; end them after the test."""
    running = []

    def gateway(**settings):
        program = Gateway(tmp_path, broker, **settings)
        program.start()
        running.append(program)
        return program

    def fleet(*device_ids):
        devices = Fleet(broker, list(device_ids))
        running.append(devices)
        return devices

    yield gateway, fleet
    for thing in reversed(running):
        if isinstance(thing, Fleet):
            thing.close()
        elif thing.process.poll() is None:
            thing.kill()


def join_all(fleet):
    for device in fleet.device_ids:
        kind, number = device.split("-")
        fleet.join(device, profile=PROFILE.get(kind, 50 + int(number)))


def view(gateway, *arguments):
    """Return what a reading command says as JSON while the gateway runs, ``None`` before it has a store."""
    command = [sys.executable, "-m", "gateway.cli", *arguments, "--json", "--config", str(gateway.config)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=20)
    if done.returncode == ExitCode.STORE:
        return None
    assert done.returncode == ExitCode.OK, done.stderr
    return json.loads(done.stdout)


def eventually(gateway, met, *arguments):
    """Ask a reading command until its answer fits."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        data = view(gateway, *(arguments or ("status",)))
        if data is not None and met(data):
            return data
    raise AssertionError(f"never came: {data}")


def test_rounds_families_releases_and_assignments(start):
    """Two warm-up rounds, a search, two rounds with experts; the broker then holds what devices need and no more."""
    gateway, fleet = start
    program = gateway(rounds=f"max_rounds = 4\nwarmup_rounds = 2\nmin_devices = 10\n{FAST}")
    devices = fleet(*CAMERAS, *PLUGS, *ODD)
    join_all(devices)
    devices.wait(lambda: sum(t.round_number == 4 for t in devices.tasks) == 10)
    data = eventually(program, lambda d: d["rounds_done"] == 4)
    assert sorted(sorted(members) for members in data["families"].values()) == [CAMERAS, PLUGS]
    assert data["refusals"] == {}

    def settled():
        cameras = {devices.assignments[d].expert for d in CAMERAS}
        return None not in cameras and all(e.digest in devices.releases for e in cameras)

    devices.wait(settled)
    models = {m["digest"]: m for m in view(program, "models")["models"]}
    for device in devices.device_ids:
        assignment = devices.assignments[device]
        assert (assignment.family_id is None) == (device in ODD)
        assert (assignment.expert is None) == (device in ODD)
        assert assignment.reason
        assert models[assignment.fallback.digest]["round"] == 4
    current = {d for d, m in models.items() if m["current"]}
    anchor = devices.assignments["cam-0"].anchor
    assert models[anchor]["round"] == 2
    devices.wait(lambda: set(devices.releases) - set(devices.cleared) == current | {anchor})
    assert len(current) == 3
    for digest in current:
        assert sha256_hex(devices.releases[digest].weights) == digest
    why = view(program, "families", "--why", "odd-1")
    assert [d["kind"] for d in why["decisions"]] == ["warm-up", "fits-none"]
    assert program.stop() == ExitCode.OK


def test_a_late_joiner_is_placed_after_the_last_round(start):
    gateway, fleet = start
    program = gateway(rounds=f"max_rounds = 2\nwarmup_rounds = 1\nmin_devices = 10\n{FAST}")
    devices = fleet(*CAMERAS, *PLUGS, *ODD)
    join_all(devices)
    eventually(program, lambda d: d["rounds_done"] == 2)
    devices.join("cam-9", profile=PROFILE["cam"])
    devices.join("odd-9", profile=99)
    family = devices.assignments["cam-0"].family_id
    devices.wait(lambda: "cam-9" in devices.assignments and devices.assignments["cam-9"].family_id == family)
    assert devices.assignments["cam-9"].expert is not None
    data = eventually(program, lambda d: any(x["device_id"] == "odd-9" for x in d["devices"]), "families")
    kinds = {d["device_id"]: d["kind"] for d in data["devices"]}
    assert (kinds["cam-9"], kinds["odd-9"]) == ("late-joiner", "fits-none")


def test_killed_in_mid_round_it_goes_on_where_it_was(start):
    """Two of four updates are stored before the kill; the round then ends with four, each counted once."""
    gateway, fleet = start
    program = gateway(rounds=f"max_rounds = 1\nmin_devices = 4\n{FAST}")
    devices = fleet(*CAMERAS)
    devices.answers = False
    join_all(devices)
    devices.wait(lambda: len(devices.tasks) == 4)
    tasks = {task.device_id: task for task in devices.tasks}
    for device in ("cam-0", "cam-1"):
        devices.answer(tasks[device])
    devices.wait(lambda: len(devices.receipts) == 2)
    program.kill()
    program.start()
    devices.wait(lambda: len(devices.tasks) == 8)
    assert {t.device_id: t for t in devices.tasks[4:]} == tasks
    for device in CAMERAS:
        devices.answer(tasks[device])
    data = eventually(program, lambda d: d["rounds_done"] == 1)
    assert data["rounds"][0]["updates"] == 4
    assert data["rounds"][0]["targets"][0]["devices"] == CAMERAS
    devices.wait(lambda: len(devices.receipts) == 6)
    assert [(r.accepted, r.reason) for r in devices.receipts if r.key.endswith("cam-0-fallback")] == [
        (True, "stored"),
        (True, "duplicate"),
    ]
    with closing(sqlite3.connect(program.config.parent / "state" / "gateway.sqlite3")) as store:
        assert store.execute("SELECT count(*), count(DISTINCT device_id) FROM updates").fetchone() == (4, 4)


def test_updates_sent_while_it_is_away_are_not_lost(start):
    """The broker keeps the gateway's session, so nobody has to send again."""
    gateway, fleet = start
    program = gateway(rounds=f"max_rounds = 1\nmin_devices = 4\n{FAST}")
    devices = fleet(*CAMERAS)
    devices.answers = False
    join_all(devices)
    devices.wait(lambda: len(devices.tasks) == 4)
    program.kill()
    for task in devices.tasks[:4]:
        devices.answer(task)
    program.start()
    data = eventually(program, lambda d: d["rounds_done"] == 1)
    assert data["rounds"][0]["updates"] == 4


def test_an_update_sent_three_times_counts_once(start):
    gateway, fleet = start
    program = gateway(rounds=f"max_rounds = 1\nmin_devices = 4\n{FAST}")
    devices = fleet(*CAMERAS)
    devices.repeats = 3
    join_all(devices)
    devices.wait(lambda: len(devices.receipts) == 12)
    assert sum(r.reason == "stored" for r in devices.receipts) == 4
    assert all(r.accepted for r in devices.receipts)
    data = eventually(program, lambda d: d["refusals"].get("update.duplicate") == 8)
    assert data["rounds"][0]["updates"] == 4
    assert data["rounds"][0]["targets"][0]["measurements"]["clients"] == 4


def test_bad_updates_are_refused_and_counted_and_do_not_stop_it(start):
    """Noise on the topic, a lie about the sender, a broken digest: the round still closes with the good ones."""
    gateway, fleet = start
    program = gateway(rounds=f"max_rounds = 1\nmin_devices = 4\n{FAST}")
    devices = fleet(*CAMERAS)
    devices.answers = False
    join_all(devices)
    devices.wait(lambda: len(devices.tasks) == 4)
    good = {task.device_id: updates_for(task)[0] for task in devices.tasks}
    client = devices._client
    client.publish(UPDATE.of(device="cam-0"), b"\xff\x00 no message", qos=1)
    client.publish(UPDATE.of(device="cam-0"), encode(good["cam-1"]), qos=1)
    broken: ModelUpdate = good["cam-0"].model_copy(update={"delta_digest": "0" * 64})
    client.publish(UPDATE.of(device="cam-0"), encode(broken), qos=1)
    for device in CAMERAS:
        devices.say(UPDATE, good[device])
    data = eventually(program, lambda d: d["rounds_done"] == 1 and d["refusals"])
    assert data["refusals"] == {
        "message.malformed": 1,
        "modelupdate.foreign-device": 1,
        "update.delta-digest": 1,
    }
    assert data["rounds"][0]["updates"] == 4


def test_a_device_with_another_model_spec_is_visible_and_not_invited(start):
    gateway, fleet = start
    program = gateway(rounds=f"max_rounds = 1\nmin_devices = 4\n{FAST}")
    devices = fleet(*CAMERAS)
    devices.join("odd-0", profile=5, spec_id="0" * 64)
    join_all(devices)
    data = eventually(program, lambda d: d["rounds_done"] == 1 and d["refusals"])
    assert data["refusals"] == {"birth.spec-mismatch": 1}
    assert data["rounds"][0]["invited"] == 4
    refusals = {d["device_id"]: d["refusal"] for d in data["devices"]}
    assert refusals["odd-0"] == "spec-mismatch"
    assert "odd-0" not in devices.assignments


def test_its_state_is_retained_and_its_last_will_says_offline(start, broker):
    """Online while it runs; offline after a kill, by the broker, and after a polite end, by itself."""
    states = []
    watcher = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
    watcher.on_message = lambda _c, _d, m: states.append(decode(GatewayState, m.payload).online)
    watcher.connect("127.0.0.1", broker)
    watcher.subscribe(GATEWAY_STATE.of(), 1)
    watcher.loop_start()
    gateway, _ = start
    try:
        program = gateway(rounds=FAST)
        wait_until(lambda: states == [True])
        program.kill()
        wait_until(lambda: states == [True, False])
        program.start()
        wait_until(lambda: states[-1])
        assert program.stop() == ExitCode.OK
        wait_until(lambda: not states[-1])
    finally:
        watcher.disconnect()
        watcher.loop_stop()


def test_it_waits_for_a_broker_that_is_not_there_and_ends_within_two_seconds(tmp_path):
    """No broker is no error; SIGTERM is heard at any time."""
    program = Gateway(tmp_path, free_port(), rounds=FAST)
    program.start()
    try:
        wait_until(lambda: "event=broker-away" in program.log.read_text())
        assert program.process.poll() is None
        begin = time.monotonic()
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(10) == ExitCode.OK
        assert time.monotonic() - begin < 2.0
    finally:
        if program.process.poll() is None:
            program.kill()


def test_it_falls_back_to_mqtt_3_1_1(tmp_path, broker):
    """Before a broker that hangs up on MQTT 5, and before one that never answers it."""
    for manner in ("hang up", "keep silent"):
        with FrontDoor(broker, manner) as door:
            directory = tmp_path / manner.replace(" ", "-")
            directory.mkdir()
            program = Gateway(directory, door.port, rounds=FAST)
            program.start()
            try:
                wait_until(lambda log=program.log: "event=broker-connected" in log.read_text())
                assert "mqtt=3.1.1" in program.log.read_text()
                assert program.stop() == ExitCode.OK
            finally:
                if program.process.poll() is None:
                    program.kill()


def test_it_finds_a_broker_that_starts_later(tmp_path):
    port = free_port()
    program = Gateway(tmp_path, port, rounds=FAST)
    program.start()
    try:
        wait_until(lambda: "event=broker-away" in program.log.read_text())
        with subprocess.Popen([MOSQUITTO, "-p", str(port)], stderr=subprocess.DEVNULL) as broker:
            try:
                wait_until(lambda: "event=broker-connected" in program.log.read_text())
            finally:
                broker.terminate()
    finally:
        program.kill()


class FrontDoor:
    """A broker's door that lets MQTT 3.1.1 through and treats MQTT 5 in one of two manners."""

    def __init__(self, broker, manner):
        self._broker = broker
        self._manner = manner
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = []

    def __enter__(self):
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _serve(self):
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            greeting = caller.recv(4096)
            # Fixed header, remaining length (one or two bytes), then the name "MQTT" and the protocol level.
            level = greeting[greeting.index(b"MQTT") + 4] if b"MQTT" in greeting else 0
            if level != 4:
                self._open += [caller] if self._manner == "keep silent" else []
                if self._manner == "hang up":
                    caller.close()
                continue
            inner = socket.create_connection(("127.0.0.1", self._broker))
            inner.sendall(greeting)
            self._open += [caller, inner]
            for source, sink in ((caller, inner), (inner, caller)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pass_on(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def wait_until(met, *, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.02)
