"""Memory of an agent process and its trainer child, measured from outside while it captures, trains and detects."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from testbed.traffic.scenario import DeviceScenario, Episode
from testbed.traffic.writer import write_capture

MEGABYTE = 1e6
_MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


@dataclass
class Peak:
    """Largest values seen, and the last ones, in bytes."""

    rss: int = 0
    anonymous: int = 0
    last_rss: int = 0

    def take(self, sample: dict[str, int]) -> None:
        self.last_rss = sample.get("Rss", self.last_rss)
        self.rss = max(self.rss, self.last_rss)
        self.anonymous = max(self.anonymous, sample.get("Anonymous", 0))


@dataclass
class AgentMemory:
    """What :func:`measure_agent` found; megabytes of 10^6 bytes."""

    packets: int = 0
    started: Peak = field(default_factory=Peak)
    training: Peak = field(default_factory=Peak)
    trainer: Peak = field(default_factory=Peak)
    pss_sum: int = 0
    detecting: Peak = field(default_factory=Peak)
    high_water: int = 0
    with_broker: bool = False
    trained: bool = False

    def figures(self) -> dict[str, float | bool | int]:
        def mb(value: int) -> float:
            return round(value / MEGABYTE, 1)

        return {
            "packets": self.packets,
            "with_broker": self.with_broker,
            "trained": self.trained,
            "agent_started_rss_mb": mb(self.started.rss),
            "agent_training_rss_mb": mb(self.training.rss),
            "agent_detecting_rss_mb": mb(self.detecting.rss),
            "agent_resting_rss_mb": mb(self.detecting.last_rss),
            "agent_detecting_anonymous_mb": mb(self.detecting.anonymous),
            "agent_high_water_mb": mb(self.high_water),
            "trainer_rss_mb": mb(self.trainer.rss),
            "agent_and_trainer_pss_mb": mb(self.pss_sum),
        }


def memory_of(pid: int) -> dict[str, int]:
    """Return the sums of a process' mappings in bytes, empty when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.split()}


def high_water_bytes(pid: int) -> int:
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
        return int(found[1]) * 1024 if found else 0
    return 0


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
    return found


def measure_agent(*, learn_s: float = 2400.0, with_broker: bool = True, python: str = sys.executable) -> AgentMemory:
    """Run an agent on a generated capture: baseline, its own training, then traffic with a scan in it.

    The capture comes through a FIFO, first the learning part, then the rest, so that training and detecting are two
    phases with a measurement each.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        capture = folder / "whole.pcap"
        scan = Episode("port_scan", learn_s + 40, learn_s + 70)
        write_capture(DeviceScenario("cam-1", "camera", 7, 12, learn_s=learn_s, exam_s=600, episodes=(scan,)), capture)
        broker = _Broker(folder) if with_broker and _MOSQUITTO else None
        try:
            return _run(folder, capture.read_bytes(), learn_s, broker, python)
        finally:
            if broker is not None:
                broker.close()


class _Broker:
    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = folder / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(_MOSQUITTO), "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(0.5)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def _run(folder: Path, data: bytes, learn_s: float, broker: _Broker | None, python: str) -> AgentMemory:
    fifo, log = folder / "traffic.pcap", folder / "agent.log"
    os.mkfifo(fifo)
    section = f'[broker]\nhost = "127.0.0.1"\nport = {broker.port}\n' if broker else ""
    (folder / "agent.toml").write_text(
        f'[device]\nid = "cam-1"\n{section}[capture]\nsource = "traffic.pcap"\n[store]\ndir = "state"\n'
        f"[labels]\nbaseline_s = {learn_s - 60}\n",
        encoding="utf-8",
    )
    first, rest, packets = _cut(data, learn_s)
    memory = AgentMemory(packets=packets, with_broker=broker is not None)
    with log.open("wb") as errors:
        agent = subprocess.Popen(
            [python, "-m", "device_agent", "run", "--config", str(folder / "agent.toml")], stderr=errors
        )
    try:
        _until(log, "event=started", agent, 30)
        memory.started.take(memory_of(agent.pid))
        with fifo.open("wb") as writer:
            writer.write(first)
            writer.flush()
            _watch_training(agent.pid, log, memory)
            writer.write(rest)
            writer.flush()
            _until(log, "event=model-in-use", agent, 30)
            _watch(agent.pid, memory.detecting, 3.0)
        _watch(agent.pid, memory.detecting, 3.0)
        memory.high_water = high_water_bytes(agent.pid)
        memory.trained = "event=trained" in log.read_text(encoding="utf-8")
    finally:
        agent.terminate()
        agent.wait(15)
    return memory


def _watch_training(pid: int, log: Path, memory: AgentMemory) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and "event=trained" not in log.read_text(encoding="utf-8"):
        agent = memory_of(pid)
        memory.training.take(agent)
        for child in children_of(pid):
            sample = memory_of(child)
            memory.trainer.take(sample)
            memory.pss_sum = max(memory.pss_sum, agent.get("Pss", 0) + sample.get("Pss", 0))
        time.sleep(0.05)


def _watch(pid: int, peak: Peak, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        peak.take(memory_of(pid))
        time.sleep(0.1)


def _until(log: Path, text: str, agent: "subprocess.Popen[bytes]", seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while text not in log.read_text(encoding="utf-8"):
        if agent.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the agent never said {text}: {log.read_text(encoding='utf-8')[-600:]}")
        time.sleep(0.05)


def _cut(data: bytes, at_s: float) -> tuple[bytes, bytes, int]:
    """Return a capture in two parts and its number of packets."""

    def word(at: int) -> int:
        return int.from_bytes(data[at : at + 4], "little")

    begin, at, cut, packets = word(24), 24, 0, 0
    while at < len(data):
        if not cut and word(at) - begin >= at_s:
            cut = at
        at += 16 + word(at + 8)
        packets += 1
    return data[:cut], data[cut:], packets


if __name__ == "__main__":
    print(measure_agent().figures())
