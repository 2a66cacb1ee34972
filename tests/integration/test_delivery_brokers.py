"""Delivery with either broker: repeated and late updates, floods and nonsense, a restart in the middle."""

import json
import subprocess
import sys
import time

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from contract.canonical import sha256_hex
from contract.codec import encode
from contract.messages import Birth, ModelUpdate, Versions
from contract.topics import BIRTH, TELEMETRY, UPDATE, VERSIONS
from tests.integration.agent_rig import MOSQUITTO
from tests.integration.fleet import Fleet, Gateway, free_port, updates_for, wait_for_port
from tests.unit.contract.samples import SAMPLES

pytestmark = pytest.mark.broker
CAMERAS = ["cam-0", "cam-1", "cam-2", "cam-3"]
ROUNDS = "max_rounds = 1\nmin_devices = 4\ninterval_s = 0\ndeadline_s = 15\nmin_rows = 100"
COMMANDS = {
    "mosquitto": lambda port: [MOSQUITTO, "-p", str(port)],
    "amqtt": lambda port: [sys.executable, "-m", "testbed.broker", "--embedded", str(port)],
}


@pytest.fixture(params=sorted(COMMANDS))
def broker_name(request):
    return request.param


@pytest.fixture
def broker(broker_name):
    if broker_name == "mosquitto" and MOSQUITTO is None:
        pytest.skip("Mosquitto is not installed (apt-get install mosquitto)")
    port = free_port()
    with subprocess.Popen(COMMANDS[broker_name](port), stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_port(port)
            yield port
        finally:
            process.terminate()


@pytest.fixture
def rig(tmp_path, broker, request):
    extra = "[screening]\nburst_messages = 300\nmessages_per_s = 20\nstrikes = 8\nquarantine_s = 3600"
    program = Gateway(tmp_path, broker, rounds=ROUNDS + getattr(request, "param", ""), extra=extra)
    program.start()
    fleet = Fleet(broker, CAMERAS)
    yield program, fleet, broker
    fleet.close()
    if program.process.poll() is None:
        program.kill()


def status(program):
    command = [sys.executable, "-m", "gateway.cli", "status", "--json", "--config", str(program.config)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=20)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def eventually(program, met):
    deadline = time.monotonic() + 20
    data = {}
    while time.monotonic() < deadline:
        data = status(program)
        if data and met(data):
            return data
    raise AssertionError(f"never came: {data}")


def join_all(fleet):
    for device in CAMERAS:
        fleet.join(device, profile=1)
    fleet.wait(lambda: {task.device_id for task in fleet.tasks} == set(CAMERAS))
    return {task.device_id: task for task in fleet.tasks}


def test_repeated_updates_count_once_although_the_gateway_is_killed_between(rig):
    program, fleet, _ = rig
    fleet.answers, fleet.repeats = False, 3
    tasks = join_all(fleet)
    for device in CAMERAS[:2]:
        fleet.answer(tasks[device])
    fleet.wait(
        lambda: {r.key for r in fleet.receipts if r.accepted} == {f"round-000001-{d}-fallback" for d in CAMERAS[:2]}
    )
    program.kill()
    program.start()
    fleet.wait(lambda: len(fleet.tasks) >= 8)
    for device in CAMERAS:
        fleet.answer(tasks[device])
    data = eventually(program, lambda d: d["rounds_done"] == 1)
    assert data["rounds"][0]["updates"] == 4
    assert data["rounds"][0]["targets"][0]["measurements"]["clients"] == 4


def test_a_flood_and_a_broken_device_do_not_stop_the_round(rig):
    """cam-0 floods, cam-1 talks nonsense until it is quarantined: the other two are the quorum."""
    program, fleet, port = rig
    fleet.answers = False
    tasks = join_all(fleet)
    loud = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="loud", protocol=mqtt.MQTTv311)
    loud.connect("127.0.0.1", port)
    loud.loop_start()
    telemetry = encode(
        next(m for m in SAMPLES if type(m).__name__ == "Telemetry").model_copy(update={"device_id": "cam-0"})
    )
    for _ in range(1_000):
        loud.publish(TELEMETRY.of(device="cam-0"), telemetry, qos=1)
    for _ in range(20):
        loud.publish(UPDATE.of(device="cam-1"), b"\xff no update", qos=1)
    try:
        for device in CAMERAS[2:]:
            fleet.answer(tasks[device])
        fleet.wait(lambda: {r.key[13:18] for r in fleet.receipts if r.accepted} == {"cam-2", "cam-3"})
        eventually(program, lambda d: "cam-1" in d["quarantined"])
        (late,) = updates_for(tasks["cam-1"])
        fleet.say(UPDATE, late)
        data = eventually(program, lambda d: d["rounds_done"] == 1)
    finally:
        loud.disconnect()
        loud.loop_stop()
    assert data["rounds"][0]["targets"][0]["devices"] == ["cam-2", "cam-3"]
    assert data["refusals"]["rate-limited.cam-0"] > 300
    assert data["refusals"]["quarantined.cam-1"] >= 12
    assert data["refusals"]["message.malformed"] == 8
    assert data["quarantined"]["cam-1"]["reason"] == "malformed"
    # A line for the flood and none for each of its messages.
    assert program.log.read_text().count("event=rate-limited") < 20


def test_a_device_that_is_quarantined_in_a_round_is_not_waited_for(rig):
    """All others have answered; the last one talks nonsense, and the round closes with its quarantine."""
    program, fleet, _ = rig
    fleet.answers = False
    tasks = join_all(fleet)
    for device in CAMERAS[1:]:
        fleet.answer(tasks[device])
    fleet.wait(lambda: {r.key[13:18] for r in fleet.receipts if r.accepted} == set(CAMERAS[1:]))
    assert status(program)["rounds_done"] == 0
    for _ in range(8):
        fleet._client.publish(UPDATE.of(device="cam-0"), b"\xff no update", qos=1)
    data = eventually(program, lambda d: d["rounds_done"] == 1)
    assert data["rounds"][0]["reason"] == "answered"
    assert data["rounds"][0]["targets"][0]["devices"] == CAMERAS[1:]
    assert list(data["quarantined"]) == ["cam-0"]


def test_each_kind_of_bad_update_is_refused_with_its_reason(rig):
    program, fleet, _ = rig
    fleet.answers = False
    tasks = join_all(fleet)
    (good,) = updates_for(tasks["cam-0"])

    def with_delta(values):
        data = values.astype("<f4").tobytes()
        return good.model_copy(update={"delta": data, "delta_digest": sha256_hex(data)})

    flat = np.frombuffer(good.delta, dtype="<f4")
    bad: dict[str, ModelUpdate] = {
        "delta-digest": good.model_copy(update={"delta_digest": "0" * 64}),
        "weights-not-finite": with_delta(np.where(np.arange(len(flat)) == 3, np.nan, flat)),
        "weights-length": with_delta(flat[:-1]),
        "stale-round": good.model_copy(update={"round_id": "round-000000", "update_id": "round-000000-cam-0-fallback"}),
    }
    for update in bad.values():
        fleet.say(UPDATE, update)
    fleet.wait(lambda: {r.reason for r in fleet.receipts if not r.accepted} == set(bad))
    for device in CAMERAS:
        fleet.answer(tasks[device])
    data = eventually(program, lambda d: d["rounds_done"] == 1 and len(d["refusals"]) >= 4)
    # amqtt may deliver a message twice, so how often is not asked.
    assert (
        {f"update.{reason}" for reason in bad}
        <= set(data["refusals"])
        <= {
            "update.duplicate",
            *(f"update.{reason}" for reason in bad),
        }
    )
    assert data["rounds"][0]["updates"] == 4
    # Stepping down to MQTT 3.1.1 is one connection; a second one under the same id would cost both with amqtt.
    assert program.log.read_text().count("event=broker-connected") == 1


@pytest.mark.parametrize("rig", ['\ndelta_encoding = "q8"'], indirect=True)
def test_a_round_of_quantised_updates(rig):
    program, fleet, _ = rig
    fleet.answers = False
    tasks = join_all(fleet)
    (plain,) = updates_for(tasks["cam-0"].model_copy(update={"delta_encoding": "float32"}))
    fleet.say(UPDATE, plain)
    fleet.wait(lambda: {r.reason for r in fleet.receipts} == {"wrong-encoding"})
    for device in CAMERAS:
        fleet.answer(tasks[device])
    data = eventually(program, lambda d: d["rounds_done"] == 1)
    assert data["rounds"][0]["reason"] == "complete"
    assert data["rounds"][0]["targets"][0]["measurements"]["clients"] == 4
    assert data["rounds"][0]["targets"][0]["reason"] == "aggregated"


def test_versions_are_retained_and_a_birth_of_another_major_is_counted(rig):
    program, _, port = rig
    heard = []
    other = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="other", protocol=mqtt.MQTTv311)
    other.on_message = lambda _c, _d, m: heard.append(Versions.model_validate_json(m.payload))
    other.connect("127.0.0.1", port)
    other.subscribe(VERSIONS.of(), 1)
    other.loop_start()
    birth = encode(next(m for m in SAMPLES if isinstance(m, Birth)))
    other.publish(BIRTH.of(device="cam-1").replace("kinwatch/1/", "kinwatch/2/"), birth, qos=1, retain=True)
    try:
        data = eventually(program, lambda d: heard and d["refusals"])
        assert set(data["refusals"]) == {"birth.contract-major-2"}
        assert heard[0].majors == (1,)
    finally:
        other.disconnect()
        other.loop_stop()
