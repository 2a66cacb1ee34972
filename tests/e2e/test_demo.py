"""The demo as a person runs it: real broker, gateway and agents, small captures, everything bounded."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from contract.exit_codes import ExitCode
from testbed.demo_results import read_results

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
BOUND_S = 90.0
AGENT_BOUND_BYTES = 120_000_000
DEVICES = ("cam-1", "cam-2", "plc-1", "temp-1")


@pytest.fixture(scope="module")
def captures(tmp_path_factory):
    """Captures of four devices, five minutes to learn from and half of that to be examined on."""
    from testbed.traffic.writer import generate

    folder = tmp_path_factory.mktemp("captures")
    generate(folder, 7, learn_s=300.0, exam_s=150.0, devices=4)
    return folder


@dataclass
class Demo:
    """A demo run in a process of its own."""

    process: subprocess.Popen
    out: Path

    @property
    def output(self):
        return self.out.with_suffix(".out").read_text()

    @property
    def errors(self):
        return self.out.with_suffix(".err").read_text()

    def wait(self, timeout_s=BOUND_S):
        return self.process.wait(timeout_s)

    def wait_for_line(self, text):
        deadline = time.monotonic() + BOUND_S
        while text not in self.output:
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def processes(self):
        """Return the processes that have the output folder in their command line, but for the harness."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                mine = any(str(self.out / "run") in part for part in process.cmdline())
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def assert_clean(self):
        """Nothing of the run is left, and no process told of a fault of its own."""
        deadline = time.monotonic() + 10.0
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert self.processes() == []
        assert "Traceback" not in self.output + self.errors
        for log in (self.out / "run").glob("*.log"):
            if log.stem != "broker":  # what a broker of others writes; the fleet has to live with its faults
                assert "Traceback" not in log.read_text(), log


@pytest.fixture
def start(tmp_path, captures):
    """Start demos, and kill what a failed test leaves behind."""
    demos = []

    def run(*arguments):
        out = tmp_path / f"run{len(demos)}"
        with out.with_suffix(".out").open("w") as output, out.with_suffix(".err").open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "testbed.cli", "demo", "--captures", captures, "--out", out, *arguments],
                stdout=output,
                stderr=errors,
                cwd=ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        demos.append(Demo(process, out))
        return demos[-1]

    yield run
    for demo in demos:
        demo.process.kill()
        demo.process.wait()


def test_a_run_learns_detects_and_measures_on_held_out_flows_only(start):
    demo = start("--rounds", "4")
    assert demo.wait() == ExitCode.OK, demo.errors
    demo.assert_clean()
    results = read_results(demo.out / "results.json")
    assert results.rounds_completed >= 3
    assert tuple(device.device_id for device in results.devices) == DEVICES
    for device in results.devices:
        in_use = device.models["in-use"]
        exam_classes = {episode.label for episode in device.episodes if episode.split == "exam"}
        assert sum(map(sum, in_use.confusion)) == device.exam_rows > 50
        assert set(in_use.recall) == exam_classes, "attacks of the learning part alone are not in the table"
        assert device.exam_s == pytest.approx(device.capture_s - device.exam_from_s, abs=1.0)
        assert device.train_rows + device.validation_rows + device.exam_rows <= device.flows
        assert 30_000_000 < device.rss_peak_bytes <= AGENT_BOUND_BYTES
        assert device.dropped_packets == 0
    assert {d.device_id for d in results.devices if any(p.true for p in d.alert_points)}, "attacks raise alerts"
    assert results.refusals == {}
    assert results.notes == ()
    for device_id in DEVICES:
        assert device_id in demo.output
    assert max(map(len, demo.output.splitlines())) <= 80 + len(str(demo.out))
    assert 'src="data:' in (demo.out / "report.html").read_text()


def test_learning_raises_the_figures(start):
    short, long = start("--rounds", "1"), None
    assert short.wait() == ExitCode.OK, short.errors
    long = start("--rounds", "20")
    assert long.wait() == ExitCode.OK, long.errors
    before, after = (read_results(demo.out / "results.json").mean_f1("in-use") for demo in (short, long))
    assert after > before + 0.1


def test_the_embedded_broker_carries_a_run(start):
    demo = start("--rounds", "3", "--broker", "embedded")
    assert demo.wait() == ExitCode.OK, demo.errors
    demo.assert_clean()
    results = read_results(demo.out / "results.json")
    assert results.environment["broker"].startswith("amqtt")
    assert results.rounds_completed == 3
    assert all(device.models for device in results.devices)


def test_a_killed_agent_and_a_killed_gateway_come_back_and_the_run_converges(start):
    demo = start("--rounds", "8", "--chaos", "cam-1@learn", "gateway@round2", "temp-1@round3", "cam-2@exam")
    assert demo.wait() == ExitCode.OK, demo.errors
    demo.assert_clean()
    results = read_results(demo.out / "results.json")
    assert results.rounds_completed == 8
    by_id = {device.device_id: device for device in results.devices}
    assert {d: by_id[d].restarts for d in DEVICES} == {"cam-1": 1, "cam-2": 1, "plc-1": 0, "temp-1": 1}
    fallbacks = {device.models["fallback"].digest for device in results.devices}
    assert len(fallbacks) == 1, "all hold the newest fallback"
    assert all(device.exam_rows > 50 for device in results.devices)
    assert len(results.notes) == 4


def test_ctrl_c_stops_everything_with_one_line(start):
    demo = start("--rounds", "5000")
    demo.wait_for_line("federated rounds")
    assert len(demo.processes()) >= 1 + 1 + len(DEVICES)
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait(30.0) == ExitCode.INTERRUPTED
    assert demo.errors == "kinwatch-testbed: interrupted; everything it started is stopped\n"
    demo.assert_clean()


def test_ctrl_c_while_agents_start_and_a_second_one_leave_nothing_behind(start):
    demo = start("--rounds", "5000")
    demo.wait_for_line("starting the gateway")
    demo.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait(30.0) == ExitCode.INTERRUPTED
    assert demo.errors.count("\n") == 1
    demo.assert_clean()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_killed_harness_leaves_no_process(start):
    demo = start("--rounds", "5000")
    demo.wait_for_line("federated rounds")
    demo.process.kill()
    demo.assert_clean()


def test_a_gateway_that_dies_is_named(start):
    demo = start("--rounds", "5000")
    demo.wait_for_line("federated rounds")
    (gateway,) = (p for p in demo.processes() if any("gateway.toml" in part for part in p.cmdline()))
    gateway.kill()
    assert demo.wait(30.0) == ExitCode.INTERNAL
    assert demo.errors.startswith("kinwatch-testbed: gateway ended unexpectedly (signal 9)")
    demo.assert_clean()


def test_a_port_in_use_is_one_line(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        demo = start("--port", str(port))
        assert demo.wait(30.0) == ExitCode.PORT_IN_USE
    assert demo.errors.count("\n") == 1
    assert f"port {port}" in demo.errors
    demo.assert_clean()
