"""Families between two searches, and the ladder, on real programs: a gateway with scripted devices, and an agent."""

import subprocess
import sys
from contextlib import suppress

import pytest

from contract.exit_codes import ExitCode
from contract.messages import (
    ActiveModel,
    Coverage,
    EvaluationReport,
    EvaluationRequest,
    LossReport,
    MarkRule,
    MarkSet,
    RunCommand,
    Signature,
    Telemetry,
)
from contract.signatures import malformed
from contract.topics import ASSIGNMENT, COMMAND, EVALUATION, MARKS, SIGNATURE, TELEMETRY
from testbed.traffic.scenario import DeviceScenario, Episode
from testbed.traffic.writer import write_capture
from tests.integration.agent_rig import (
    DEVICE,
    MOSQUITTO,
    Agent,
    Broker,
    HandMadeGateway,
    make_assignment,
    wait_for,
)
from tests.integration.fleet import Fleet, Gateway, free_port, signature_of

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="Mosquitto is not installed (apt-get install mosquitto)"),
]

CAMERAS, PLUGS = [f"cam-{i}" for i in range(4)], [f"plug-{i}" for i in range(4)]
ROUNDS = "interval_s = 0.1\ndeadline_s = 15\nmin_rows = 100\nmin_devices = 8\nwarmup_rounds = 1"
LEARN_S = 600.0
START_US = 1_767_225_600_000_000


@pytest.fixture
def broker(tmp_path):
    folder = tmp_path / "broker"
    folder.mkdir()
    made = Broker(folder, free_port()).start()
    yield made
    made.stop()


@pytest.fixture
def two_families(tmp_path, broker):
    """A gateway that compares experts after every round, and a fleet of two kinds; each has its expert."""
    gateway = Gateway(tmp_path, broker.port, rounds=ROUNDS, families="check_every = 1")
    gateway.start()
    fleet = Fleet(broker.port, [*CAMERAS, *PLUGS])
    for device in fleet.device_ids:
        fleet.join(device, profile=1 if device in CAMERAS else 2)
    yield gateway, fleet
    fleet.close()
    if gateway.process.poll() is None:
        gateway.kill()


def family(fleet, device):
    assignment = fleet.assignments.get(device)
    return None if assignment is None else assignment.family_id


def have_experts(fleet):
    given = [fleet.assignments.get(device) for device in fleet.device_ids]
    return all(a is not None and a.expert is not None for a in given) and len({a.family_id for a in given}) == 2


def why(gateway, device):
    command = [sys.executable, "-m", "gateway.cli", "families", "--why", device, "--config", str(gateway.config)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=20, text=True)
    assert done.returncode == ExitCode.OK, done.stderr
    return " ".join(done.stdout.split())


def test_a_device_that_drifts_is_placed_anew_alone_and_the_reason_is_kept(two_families):
    gateway, fleet = two_families
    fleet.wait(lambda: have_experts(fleet), timeout_s=60.0)
    before = {device: family(fleet, device) for device in fleet.device_ids}
    fleet.say(SIGNATURE, signature_of("cam-3", 2, sequence=2))
    drifted = Telemetry(
        device_id="cam-3",
        session="s-cam-3",
        uptime_s=9.0,
        capture_state="running",
        flows=1_000,
        train_rows=500,
        drifted_features=("fwd_bytes",),
    )
    fleet.say(TELEMETRY, drifted)
    fleet.wait(lambda: family(fleet, "cam-3") == before["plug-0"])
    others = [device for device in fleet.device_ids if device != "cam-3"]
    assert {device: family(fleet, device) for device in others} == {device: before[device] for device in others}
    story = why(gateway, "cam-3")
    assert "its traffic drifted (fwd_bytes); joined late" in story
    assert story.index("traffic like that of 3 others") < story.index("its traffic drifted")


def test_two_families_with_interchangeable_experts_become_one(two_families):
    gateway, fleet = two_families
    fleet.losses = lambda own, other: 0.50 if own == other else 0.51
    fleet.wait(lambda: have_experts(fleet), timeout_s=60.0)
    fleet.wait(lambda: len({family(fleet, device) for device in fleet.device_ids}) == 1, timeout_s=60.0)
    assert len({fleet.assignments[device].expert.family_id for device in fleet.device_ids}) == 1
    stories = [why(gateway, device) for device in ("cam-0", "plug-0")]
    assert sum("serve each other's members" in story for story in stories) == 1


# --- the ladder on an agent ---


@pytest.fixture
def agent(tmp_path, broker):
    folder = tmp_path / "agent"
    folder.mkdir()
    made = Agent(folder, port=broker.port, extra="[labels]\naccept_marks = true\n")
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()
    made.end_capture()


@pytest.fixture
def hand(broker):
    opened = HandMadeGateway(broker.port)
    yield opened
    with suppress(OSError):
        opened.close()


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Ten minutes of a camera with four port scans, then two minutes with one more."""
    path = tmp_path_factory.mktemp("capture") / "whole.pcap"
    scans = tuple(Episode("port_scan", at, at + 50) for at in (60, 200, 350, 500, LEARN_S + 40))
    write_capture(DeviceScenario(DEVICE, "camera", 7, 12, learn_s=LEARN_S, exam_s=120, episodes=scans), path)
    return path.read_bytes()


def marks():
    split_us, end_us = START_US + int(LEARN_S * 1e6), START_US + int((LEARN_S + 3_600) * 1e6)
    return MarkSet(
        run_id="run-1",
        device_id=DEVICE,
        rules=(MarkRule(label="scan", start_us=START_US, end_us=end_us, hosts=("10.20.0.66",)),),
        coverage=(
            Coverage(start_us=START_US, end_us=split_us - 1, default_label="benign", split="learn"),
            Coverage(start_us=split_us, end_us=end_us, default_label="benign", split="exam"),
        ),
    )


def test_a_device_like_nobody_climbs_to_a_model_of_its_own_and_stays_there(agent, hand, capture):
    """The fallback it is given knows nothing; what it learns from its own rows is better by the bound."""
    hand.online()
    fallback = hand.publish_release(1)
    anchor = hand.publish_release(2)
    hand.say(MARKS, marks(), run="run-1", device=DEVICE)
    given = make_assignment(1, fallback).model_copy(update={"anchor": anchor.digest})
    hand.say(ASSIGNMENT, given, device=DEVICE)
    agent.start()
    agent.feed(capture)
    agent.end_capture()
    agent.wait_log("event=capture-ended", 60)
    own = hand.first(ActiveModel, lambda a: a.active.role in {"fine-tuned", "local"}, 90)
    assert own.reason == f"{own.active.role}-better"
    assert own.gain > 0.02
    assert own.z >= 1.0
    assert own.validation_rows >= 100

    signature = hand.first(Signature, lambda s: s.sketch is not None, 60)
    assert malformed(signature) is None
    assert signature.anchor == anchor.digest[:16]
    assert "scan" in signature.prototypes

    expert = hand.publish_release(3, role="expert")
    asked = EvaluationRequest(device_id=DEVICE, request=4, models=(fallback, expert))
    hand.say(EVALUATION, asked, device=DEVICE)
    report = hand.first(LossReport)
    assert (report.reason, report.request, [x.model for x in report.losses]) == ("measured", 4, [fallback, expert])

    hand.say(COMMAND, RunCommand(run_id="run-1", verb="evaluate", sequence=1), run="run-1")
    exam = hand.first(EvaluationReport)
    assert exam.active.role in {"fine-tuned", "local"}
    assert exam.active in [score.model for score in exam.scores]
    assert fallback in [score.model for score in exam.scores]

    agent.terminate()
    heard = len(hand.of(ActiveModel))
    agent.start()
    again = wait_for(lambda: hand.of(ActiveModel)[heard:], 30)[0]
    assert (again.active.role, again.reason) == (exam.active.role, "restored")
    assert hand.of(Signature)[-1].sketch is not None
