"""An alert of a real agent, an operator's word through the real gateway, and the row that it makes of the flow."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from contract.exit_codes import ExitCode
from contract.messages import ModelUpdate
from contract.taxonomy import CLASS_INDEX
from device_agent.labels.source import Source
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
    make_capture,
    wait_for,
)
from tests.integration.fleet import Gateway

pytestmark = [
    pytest.mark.broker,
    pytest.mark.timeout(180),
    pytest.mark.skipif(MOSQUITTO is None, reason="Mosquitto is not installed (apt-get install mosquitto)"),
]


def command(gateway, *words):
    """Run a command of the gateway beside the running one; return its output."""
    line = [sys.executable, "-m", "gateway.cli", *words, "--config", str(gateway.config)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == ExitCode.OK, done.stderr
    return done.stdout


@pytest.fixture
def stage(tmp_path):
    """A broker, a gateway that has subscribed and went away again, and an agent that trusts its key."""
    port = free_port()
    for name in ("broker", "gateway", "agent"):
        (tmp_path / name).mkdir()
    broker = Broker(tmp_path / "broker", port).start()
    gateway = Gateway(
        tmp_path / "gateway", port, rounds="min_devices = 1\nmin_rows = 50\ninterval_s = 1.0\ndeadline_s = 20.0"
    )
    gateway.start()
    wait_for(lambda: "event=broker-connected" in gateway.log.read_text())
    assert gateway.stop() == ExitCode.OK
    # Several alerts, in several blocks of time: some of these train, others validate.
    extra = f"[labels]\nbaseline_s = {LEARN_S}\n[alerts]\nsuppress_s = 8.0\n"
    agent = Agent(tmp_path / "agent", port=port, extra=extra)
    (key, *_) = json.loads(command(gateway, "keys", "--json"))["keys"]
    (agent.folder / "release.pub").write_bytes(Path(key).read_bytes())
    ear = HandMadeGateway(port)
    yield gateway, agent, ear
    ear.close()
    for process in (agent.process, gateway.process):
        if process is not None and process.poll() is None:
            process.kill()
            process.wait(10)
    agent.end_capture()
    broker.stop()


def test_a_confirmed_alert_becomes_a_training_row_with_the_operators_word(stage, tmp_path):
    """The alert waits in the broker for the gateway; its flow waits on the device for the verdict."""
    gateway, agent, ear = stage
    learn, attack = make_capture(tmp_path)
    agent.start()
    agent.feed(learn)
    agent.wait_log("event=model-in-use")
    agent.feed(attack)
    agent.end_capture()
    agent.wait_log("event=capture-ended")
    gateway.start()
    listed = wait_for(lambda: json.loads(command(gateway, "alerts", "--device", DEVICE, "--json"))["alerts"])
    scans = [a["flow_id"] for a in listed if a["src_ip"] == "10.20.0.66"]
    assert scans
    for flow_id in scans:
        command(gateway, "verdict", DEVICE, str(flow_id), "confirm", "--label", "scan")
        agent.wait_log(f"event=verdict flow={flow_id} label=scan")
    before = len(ear.of(ModelUpdate)) + 1  # one may have been on its way
    update = wait_for(lambda: ear.of(ModelUpdate)[before:], 60.0)[0]
    assert update.rows_by_source["baseline"] + update.rows_by_source["verdict"] <= update.rows
    listed = json.loads(command(gateway, "alerts", "--json"))["alerts"]
    assert {a["verdict"] for a in listed if a["flow_id"] in scans} == {"scan"}
    agent.terminate()
    with closing(SampleStore(agent.folder / "state" / "samples.db")) as store:
        kept = store.load()
    judged = [
        (int(flow), int(y))
        for split in (Split.TRAIN, Split.VALIDATION)
        for flow, y, source in zip(kept[split].flow_id, kept[split].y, kept[split].source, strict=True)
        if source == Source.VERDICT
    ]
    assert sorted(judged) == sorted((flow_id, CLASS_INDEX["scan"]) for flow_id in scans)
    assert sum(kept[Split.TRAIN].source == Source.VERDICT) == update.rows_by_source["verdict"]
