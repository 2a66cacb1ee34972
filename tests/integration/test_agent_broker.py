"""A real agent process, a real Mosquitto, a gateway played by hand."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from contract.messages import (
    ActiveModel,
    Birth,
    Coverage,
    EvaluationReport,
    EveAlert,
    MarkRule,
    MarkSet,
    ModelUpdate,
    Receipt,
    RunCommand,
    Signature,
    Status,
    Telemetry,
)
from contract.topics import ASSIGNMENT, COMMAND, MARKS, RECEIPT, TASK
from device_agent.samples.split import Split
from device_agent.store.samples import SampleStore
from tests.integration.agent_rig import (
    DEVICE,
    LEARN_S,
    MOSQUITTO,
    Agent,
    Broker,
    HandMadeGateway,
    free_port,
    is_finite_delta,
    make_assignment,
    make_capture,
    make_task,
    wait_for,
)

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="Mosquitto is not installed (apt-get install mosquitto)"),
]
BASELINE = f"[labels]\nbaseline_s = {LEARN_S}\n"
MARKED = "[labels]\naccept_marks = true\n"
START_US = 1_767_225_600_000_000


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return make_capture(tmp_path_factory.mktemp("capture"))


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def broker(tmp_path, port):
    folder = tmp_path / "broker"
    folder.mkdir()
    made = Broker(folder, port)
    yield made
    made.stop()


@pytest.fixture
def agent(tmp_path, port, request):
    folder = tmp_path / "agent"
    folder.mkdir()
    made = Agent(folder, port=port, extra=getattr(request, "param", BASELINE))
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()
    made.end_capture()


@pytest.fixture
def gateway(port):
    opened = []

    def connect():
        opened.append(HandMadeGateway(port))
        return opened[-1]

    yield connect
    for one in opened:
        with suppress(OSError):
            one.close()


def marks():
    split_us = START_US + int(LEARN_S * 1e6)
    end_us = split_us + 3_600_000_000
    scan = MarkRule(label="scan", start_us=START_US, end_us=end_us, hosts=("10.20.0.66",))
    return MarkSet(
        run_id="run-1",
        device_id=DEVICE,
        rules=(scan,),
        coverage=(
            Coverage(start_us=START_US, end_us=split_us - 1, default_label="benign", split="learn"),
            Coverage(start_us=split_us, end_us=split_us + 120_000_000, default_label="benign", split="exam"),
        ),
    )


def test_it_alerts_with_the_broker_dead_and_catches_up_when_it_is_there(agent, broker, gateway, capture):
    learn, attack = capture
    agent.start()
    agent.feed(learn)
    agent.wait_log("event=model-in-use")
    agent.feed(attack)
    agent.end_capture()
    agent.wait_log("event=capture-ended")
    lines = [json.loads(line) for line in wait_for(agent.alert_lines)]
    assert any(line["src_ip"] == "10.20.0.66" for line in lines)
    broker.start()
    hand = gateway()
    wait_for(lambda: len(hand.of(EveAlert)) >= len(lines), 60)
    assert {m.flow_id for m in hand.of(EveAlert)} == {line["flow_id"] for line in lines}
    assert hand.first(Birth).device_id == DEVICE
    assert hand.first(ActiveModel).active.role == "factory"
    assert hand.first(Telemetry, lambda t: t.outbox == 0).alerts == len(lines)


@pytest.mark.parametrize("agent", [MARKED], indirect=True)
def test_a_whole_life_release_round_receipt_evaluation(agent, broker, gateway, capture):
    learn, attack = capture
    broker.start()
    hand = gateway()
    hand.online()
    hand.say(MARKS, marks(), run="run-1", device=DEVICE)
    agent.start()
    agent.wait_log("event=marks")
    agent.feed(learn)
    assert hand.first(Signature).flows >= 60
    fallback = hand.publish_release(5)
    expert = hand.publish_release(6, role="expert")
    hand.say(ASSIGNMENT, make_assignment(1, fallback, expert), device=DEVICE)
    active = hand.first(ActiveModel, lambda m: m.active.role != "factory")
    assert active.active in (expert, fallback)
    assert active.assignment_version == 1
    hand.say(TASK, make_task(fallback), device=DEVICE)
    update = hand.first(ModelUpdate)
    assert update.update_id == f"round-000001-{DEVICE}-fallback"
    assert update.base == fallback.digest
    assert is_finite_delta(update)
    assert update.loss_after < update.loss_before
    assert set(update.rows_by_source) == {"mark"}
    wait_for(lambda: any(t.outbox == 1 for t in hand.of(Telemetry)))
    hand.say(RECEIPT, Receipt(device_id=DEVICE, key=update.update_id, accepted=True, reason="stored"), device=DEVICE)
    agent.feed(attack)
    agent.end_capture()
    ended = hand.first(Telemetry, lambda t: t.capture_state == "ended" and t.outbox == 0)
    assert ended.exam_rows > 100
    for _ in range(2):
        hand.say(COMMAND, RunCommand(run_id="run-1", verb="evaluate", sequence=1), run="run-1")
    report = hand.first(EvaluationReport)
    assert {score.model.digest for score in report.scores} == {fallback.digest, expert.digest}
    assert report.exam_rows == sum(sum(row) for row in report.scores[0].confusion)
    assert report.exam_benign_s == 120.0
    assert report.active in (expert, fallback)
    took_s, code = agent.terminate()
    assert code == 0
    assert took_s < 2.0
    assert hand.first(Status, lambda s: s.state == "disconnected")
    assert len(hand.of(EvaluationReport)) == 1, "the same command was acted on twice"


def test_an_update_survives_kill_9_under_its_id(agent, broker, gateway, capture):
    broker.start()
    hand = gateway()
    hand.online()
    agent.start()
    agent.feed(capture[0])
    hand.first(Signature)
    base = hand.publish_release(5)
    hand.say(TASK, make_task(base), device=DEVICE)
    first = hand.first(ModelUpdate)
    agent.kill()
    assert hand.first(Status, lambda s: s.state == "lost").session == hand.first(Birth).session
    seen = len(hand.of(ModelUpdate))
    agent.start()
    wait_for(lambda: len(hand.of(ModelUpdate)) > seen)
    assert hand.of(ModelUpdate)[-1] == first
    hand.say(RECEIPT, Receipt(device_id=DEVICE, key=first.update_id, accepted=True, reason="stored"), device=DEVICE)
    sessions = {b.session for b in hand.of(Birth)}
    assert len(sessions) == 2
    hand.first(Telemetry, lambda t: t.session != first and t.outbox == 0 and t.session == hand.of(Birth)[-1].session)
    assert "event=trained job=round" in agent.log()
    assert agent.log().count("event=trained job=round-000001") == 1, "a finished task was trained again"


def test_rows_learned_a_second_ago_survive_kill_9(agent, capture):
    agent.start()
    agent.feed(capture[0])
    agent.wait_log("event=model-in-use")
    wait_for(lambda: len(SampleStore(agent.folder / "state" / "samples.db").load()[Split.TRAIN]) >= 200)
    agent.kill()
    agent.start()
    agent.feed(capture[0][:24] + capture[1])
    agent.end_capture()
    assert wait_for(agent.alert_lines), "the restarted process does not know its model or threshold any more"


def test_retained_task_and_release_reach_an_agent_that_was_away(agent, broker, gateway, capture):
    broker.start()
    agent.start()
    agent.feed(capture[0])
    agent.wait_log("event=model-in-use")
    agent.terminate()
    hand = gateway()
    hand.online()
    base = hand.publish_release(5)
    hand.say(ASSIGNMENT, make_assignment(3, base), device=DEVICE)
    hand.say(TASK, make_task(base), device=DEVICE)
    agent.start()
    assert hand.first(ModelUpdate).base == base.digest
    assert hand.first(ActiveModel, lambda m: m.active == base).assignment_version == 3


def test_a_release_of_an_unknown_key_is_refused_and_the_model_stays(agent, broker, gateway, capture):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    broker.start()
    hand = gateway()
    agent.start()
    agent.feed(capture[0])
    agent.wait_log("event=model-in-use")
    forged = hand.publish_release(5, key=Ed25519PrivateKey.generate())
    hand.say(ASSIGNMENT, make_assignment(1, forged), device=DEVICE)
    told = hand.first(Telemetry, lambda t: "trust-unknown-key" in t.counters)
    assert told.counters["trust-unknown-key"] == 1
    assert {m.active.role for m in hand.of(ActiveModel)} == {"factory"}


def test_sigterm_in_the_middle_of_a_training_reaps_the_trainer_within_two_seconds(agent, broker, gateway, capture):
    broker.start()
    hand = gateway()
    hand.online()
    agent.start()
    agent.feed(capture[0])
    agent.wait_log("event=model-in-use")
    base = hand.publish_release(5)
    long_task = make_task(base).model_copy(update={"local_epochs": 100, "learning_rate": 1e-5})
    seen = len(hand.of(ModelUpdate))
    children = agent.children()
    assert children
    # A trainer that stands still is in the middle of its training for certain, and the worst to get rid of.
    for pid in children:
        os.kill(pid, signal.SIGSTOP)
    hand.say(TASK, long_task, device=DEVICE)
    wait_for(lambda: agent.log().count("state=training") >= 2)
    took_s, code = agent.terminate()
    assert code == 0
    assert took_s < 2.0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert len(hand.of(ModelUpdate)) == seen
    assert len(SampleStore(agent.folder / "state" / "samples.db").load()[Split.TRAIN]) >= 60


def test_supervisor_messages_frame_the_life_of_the_process(agent, tmp_path, monkeypatch):
    path = tmp_path / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(path))
        supervisor.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        agent.start()
        assert supervisor.recv(200) == b"READY=1"
        heard = {supervisor.recv(200).split(b"=")[0] for _ in range(4)}
        assert b"WATCHDOG" in heard
        agent.terminate()
        rest = b""
        while b"STOPPING=1" not in rest:
            rest += supervisor.recv(200)


def test_a_broker_that_speaks_only_3_1_1_is_understood(agent, port, gateway, tmp_path):
    pytest.importorskip("amqtt", reason="the embedded broker is not installed")
    log = (tmp_path / "broker.log").open("wb")
    broker = subprocess.Popen([sys.executable, "-m", "testbed.broker", "--embedded", str(port)], stdout=log, stderr=log)
    try:
        agent.start()
        agent.wait_log("event=connected protocol=3.1.1", 30)
        hand = HandMadeGateway(port, protocol=MQTTProtocolVersion.MQTTv311)
        assert hand.first(Birth).device_id == DEVICE
        hand.close()
    finally:
        broker.terminate()
        broker.wait(10)
        log.close()
