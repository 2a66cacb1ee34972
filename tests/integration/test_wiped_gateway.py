"""A gateway whose store is gone counts its assignments from one again; devices that remember higher ones follow it."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.integration.agent_rig import DEVICE, MOSQUITTO, Agent, Broker, free_port, wait_for
from tests.integration.fleet import Gateway

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="Mosquitto is not installed (apt-get install mosquitto)"),
]


@pytest.fixture
def port(tmp_path):
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = Broker(folder, free_port()).start()
    yield broker.port
    broker.stop()


def kinwatch_gateway(program, *arguments):
    command = [sys.executable, "-m", "gateway.cli", *arguments, "--config", str(program.config)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout


def followed(program):
    """Return the version of the assignment that the device follows, 0 while it follows none or another."""
    # A gateway that has just started has no store to look at.
    data = json.loads(kinwatch_gateway(program, "status", "--json") or "{}")
    for device in data.get("devices", ()):
        assignment, active = device["assignment"], device["active"]
        if device["device_id"] == DEVICE and assignment and active:
            same = active["assignment_version"] == assignment["version"]
            return assignment["version"] if same and active["active"]["role"] == "fallback" else 0
    return 0


def test_a_wiped_gateway_is_followed(tmp_path, port):
    folder = tmp_path / "agent"
    folder.mkdir()
    program = Gateway(tmp_path, port, rounds="min_devices = 2")
    kinwatch_gateway(program, "keys")
    agent = Agent(folder, port=port)
    shutil.copy(tmp_path / "keys" / "release-1.pub", folder / "release.pub")
    try:
        program.start()
        agent.start()
        agent.feed(b"")
        wait_for(lambda: followed(program) == 1)
        # Each new epoch is a new version of every assignment.
        for version in (2, 3):
            program.stop()
            assert "restart" in kinwatch_gateway(program, "new-epoch")
            program.start()
            wait_for(lambda version=version: followed(program) == version)
        program.stop()
        shutil.rmtree(tmp_path / "state")
        program.start()
        wait_for(lambda: followed(program) == 1)
        assert "assignment-older" not in agent.log()
    finally:
        agent.kill()
        program.kill()
