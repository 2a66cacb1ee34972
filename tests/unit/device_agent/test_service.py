"""The shell without a broker: a capture in, alerts out, state that outlives the process, trouble that does not kill.

The training process is replaced by the training loop itself, so nothing here waits.
"""

import json
from pathlib import Path

import pytest

from contract.exit_codes import ExitCode
from contract.taxonomy import BENIGN_INDEX
from device_agent import parts as parts_module
from device_agent.config import load_config
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.parts import build
from device_agent.samples.split import Split
from device_agent.service import Agent
from device_agent.training.jobs import TrainingFinished
from device_agent.training.trainer import train
from testbed.traffic.scenario import DeviceScenario, Episode
from testbed.traffic.writer import write_capture

LEARN_S = 600


class PromptTrainer:
    """Trains at once, in this process."""

    pid = None
    started = 0

    def __init__(self, **_settings):
        self._event = None

    @property
    def busy(self):
        return self._event is not None

    def start(self, job):
        type(self).started += 1
        result = train(NumpyEngine(job.layout), job.theta, job.data, job.settings)
        self._event = TrainingFinished(job.job_id, result, 0.1, "numpy", 0)

    def poll(self):
        event, self._event = self._event, None
        return event

    def take_checkpoint(self):
        """Return none: a training that is done at once leaves nothing to go on from."""

    def cancel(self):
        """Nothing runs."""

    def close(self):
        """Nothing runs."""


@pytest.fixture(autouse=True)
def prompt_trainer(monkeypatch):
    PromptTrainer.started = 0
    monkeypatch.setattr(parts_module, "Trainer", PromptTrainer)
    # A real agent reads the clock twice a second; these captures last half a second.
    monkeypatch.setattr("device_agent.service._TICK_S", 0.0)


@pytest.fixture(scope="module")
def captures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captures")
    quiet, attacked = folder / "quiet.pcap", folder / "attacked.pcap"
    scan = Episode("port_scan", 60, 90)
    write_capture(DeviceScenario("cam-1", "camera", 7, 12, learn_s=LEARN_S, exam_s=60), quiet)
    write_capture(DeviceScenario("cam-1", "camera", 8, 12, learn_s=120, exam_s=60, episodes=(scan,)), attacked)
    return quiet, attacked


def settle(tmp_path, source, extra=""):
    path = Path(tmp_path) / "agent.toml"
    path.write_text(
        f'[device]\nid = "cam-1"\n[capture]\nsource = "{source}"\n[store]\ndir = "state"\n'
        f'[training]\nengine = "numpy"\nmin_benign_rows = 60\n[labels]\nbaseline_s = {LEARN_S + 60}\n{extra}',
        encoding="utf-8",
    )
    return load_config(path)


def run(config):
    agent = Agent(build(config, version="test"))
    code = agent.run(exit_at_end=True)
    return agent, code


def alerts(tmp_path):
    return [json.loads(line) for line in (tmp_path / "state" / "eve.json").read_text(encoding="utf-8").splitlines()]


def test_a_device_that_learned_its_own_traffic_alerts_on_a_scan_after_a_restart(tmp_path, captures):
    quiet, attacked = captures
    agent, code = run(settle(tmp_path, quiet))
    assert code == ExitCode.OK
    assert agent.parts.machine.active.role == "factory"
    assert agent.parts.machine.active != agent.parts.memory.factory
    assert alerts(tmp_path) == []
    agent, code = run(settle(tmp_path, attacked))
    assert code == ExitCode.OK
    found = alerts(tmp_path)
    assert {alert["src_ip"] for alert in found} >= {"10.20.0.66"}
    assert found[0]["event_type"] == "alert"
    assert found[0]["kinwatch"]["model"] == agent.parts.machine.active.digest
    assert PromptTrainer.started == 1, "the model of the first run is still there"


def test_rows_and_calibration_come_back_after_a_restart(tmp_path, captures):
    first, _ = run(settle(tmp_path, captures[0]))
    again = build(settle(tmp_path, captures[0]), version="test")
    for split in (Split.TRAIN, Split.VALIDATION):
        assert again.buffer.counts(split) == first.parts.buffer.counts(split)
        assert set(again.buffer.counts(split)) == {BENIGN_INDEX}
    assert again.pipeline.detector.calibration == first.parts.pipeline.detector.calibration
    assert again.flows_per_hour() == pytest.approx(first.parts.flows_per_hour())
    assert again.pipeline.first_us == first.parts.pipeline.first_us
    again.capture.close()
    again.memory.close()


def test_a_truncated_capture_is_used_to_its_end_and_gives_its_exit_code(tmp_path, captures):
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(captures[0].read_bytes()[:-7])
    agent, code = run(settle(tmp_path, cut))
    assert code == ExitCode.CAPTURE_INPUT
    assert agent.parts.capture.state == "failed"
    assert agent.parts.pipeline.counters.flows > 100


def test_a_disk_that_refuses_writes_degrades_and_detection_goes_on(tmp_path, captures):
    run(settle(tmp_path, captures[0]))
    parts = build(settle(tmp_path, captures[1]), version="test")
    for database in (parts.memory.samples.database, parts.memory.state.database, parts.memory.outbox.database):
        database.read("PRAGMA query_only=ON")
    agent = Agent(parts)
    assert agent.run(exit_at_end=True) == ExitCode.OK
    assert parts.memory.trouble == "the disk refuses writes: state.db, samples.db"
    assert len(alerts(tmp_path)) > 0
    assert parts.memory.counters()["store-read-only"] > 0


def test_a_full_disk_under_the_alert_file_is_counted(tmp_path, captures):
    run(settle(tmp_path, captures[0]))
    config = settle(tmp_path, captures[1], '[alerts]\npath = "/dev/full"\n')
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    agent, code = run(config)
    assert code == ExitCode.OK
    assert agent.parts.pipeline.counters.alerts > 0
    assert agent.parts.memory.counters()["alert-file-lost"] == agent.parts.pipeline.counters.alerts


def test_damaged_stores_are_put_aside_and_the_agent_starts_fresh(tmp_path, captures):
    run(settle(tmp_path, captures[0]))
    for name in ("state.db", "samples.db", "outbox.db"):
        for suffix in ("-wal", "-shm"):
            (tmp_path / "state" / (name + suffix)).unlink(missing_ok=True)
        (tmp_path / "state" / name).write_bytes(b"damage " * 2_000)
    agent, code = run(settle(tmp_path, captures[0]))
    assert code == ExitCode.OK
    assert agent.parts.memory.counters()["store-damaged-moved-aside"] == 3
    assert PromptTrainer.started == 2


@pytest.mark.parametrize("early", ["", "[flows]\nearly_pkts = 8\nearly_s = 2.0\n"])
def test_telemetry_counts_every_packet(tmp_path, captures, early):
    agent, _ = run(settle(tmp_path, captures[0], early))
    told = agent.parts.telemetry(uptime_s=1.0)
    assert told.counters["payloads-dissected"] > 100
    assert told.flows == sum(agent.parts.pipeline.meter.counters.records.values()) - told.counters.get("flows-early", 0)
    assert ("flows-early" in told.counters) == bool(early)
    meter = agent.parts.pipeline.meter.counters
    assert told.packets + told.ignored_packets == meter.packets > 1_000
    assert told.capture_state == "ended"
    assert told.train_rows + told.validation_rows <= told.flows + told.counters.get("flows-early", 0)


def test_sigterm_ends_a_loop_that_waits_for_packets(tmp_path, captures):
    agent = Agent(build(settle(tmp_path, captures[0]), version="test"))
    agent.stop()
    assert agent.run() == ExitCode.OK
