"""Replay between two ends of a cable inside network namespaces made for the test."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.captures.reader import read_packets
from testbed.traffic.scenario import DeviceScenario
from testbed.traffic.writer import write_capture

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"),
]

# Both programs run in processes of their own, because a thread that changes its namespace stays there.
SENDER = """
import json, sys
from pathlib import Path
from testbed.errors import HarnessError
from testbed.pacing import Pace
from testbed.replay import ReplayOptions, replay
capture, interface, rate, limit, mac = sys.argv[1:]
pace = Pace(rate_pps=float(rate), limit=int(limit))
options = ReplayOptions(Path(capture), interface, pace, bytes.fromhex(mac) or None)
try:
    report = replay(options)
except HarnessError as error:
    print(json.dumps({"code": int(error.code), "text": str(error)}))
else:
    print(json.dumps({"code": 0, "sent": report.sent, "valid": report.valid, "deviation": report.deviation}))
"""
RECEIVER = """
import socket, sys
line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
line.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
line.bind((sys.argv[1], 3))
line.settimeout(8.0)
print("ready", flush=True)
for _ in range(int(sys.argv[2])):
    print(line.recv(65535).hex())
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


def run_inside(namespace: str, script: str, *words: str) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", script, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def cable() -> Iterator[tuple[str, str]]:
    """Two namespaces joined by a veth pair; the sender's end ``tx0`` carries the testbed's marker."""
    sender, receiver = f"kwt{os.getpid()}a", f"kwt{os.getpid()}b"
    ip("netns", "add", sender)
    ip("netns", "add", receiver)
    try:
        ip("-n", sender, "link", "add", "tx0", "type", "veth", "peer", "name", "rx0", "netns", receiver)
        ip("-n", sender, "link", "set", "dev", "tx0", "alias", "kinwatch-lab")
        for namespace, name in ((sender, "tx0"), (receiver, "rx0")):
            # Without IPv6 the kernel itself says nothing on the cable.
            ip("netns", "exec", namespace, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
            ip("-n", namespace, "link", "set", "dev", name, "up")
        yield sender, receiver
    finally:
        ip("netns", "del", sender)
        ip("netns", "del", receiver)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("captures") / "temp-1.pcap"
    write_capture(DeviceScenario("temp-1", "temp_sensor", 1, 11, learn_s=120.0, exam_s=60.0), path)
    return path


def replay_inside(
    namespace: str, capture: Path, *, mac: str = "", rate: int = 400, limit: int = 300
) -> dict[str, object]:
    process = run_inside(namespace, SENDER, str(capture), "tx0", str(rate), str(limit), mac)
    output, _ = process.communicate(timeout=60)
    result: dict[str, object] = json.loads(output)
    return result


def test_every_frame_arrives_unchanged_and_in_pace(cable: tuple[str, str], capture: Path) -> None:
    sender, receiver = cable
    listener = run_inside(receiver, RECEIVER, "rx0", "300")
    assert listener.stdout is not None
    assert listener.stdout.readline() == "ready\n"
    result = replay_inside(sender, capture)
    received = [bytes.fromhex(line) for line in listener.communicate(timeout=30)[0].split()]
    assert result["code"] == 0, result
    assert result["sent"] == 300
    assert result["valid"], result
    assert received == [packet.data for packet, _ in zip(read_packets(capture), range(300), strict=False)]


def test_the_destination_is_rewritten(cable: tuple[str, str], capture: Path) -> None:
    sender, receiver = cable
    listener = run_inside(receiver, RECEIVER, "rx0", "20")
    assert listener.stdout is not None
    assert listener.stdout.readline() == "ready\n"
    assert replay_inside(sender, capture, mac="020000000042", limit=20)["code"] == 0
    received = listener.communicate(timeout=30)[0].split()
    assert {line[:12] for line in received} == {"020000000042"}


def test_without_the_marker_nothing_is_sent(cable: tuple[str, str], capture: Path) -> None:
    sender, _ = cable
    ip("-n", sender, "link", "set", "dev", "tx0", "alias", "")
    result = replay_inside(sender, capture)
    assert result["code"] == 22
    assert "no-marker" in str(result["text"])


def test_a_default_route_over_the_interface_refuses_even_a_marked_one(cable: tuple[str, str], capture: Path) -> None:
    sender, _ = cable
    ip("-n", sender, "addr", "add", "10.20.0.11/24", "dev", "tx0")
    ip("-n", sender, "route", "add", "default", "via", "10.20.0.1")
    result = replay_inside(sender, capture)
    assert result["code"] == 22
    assert "default-route" in str(result["text"])


def test_the_machines_own_uplink_is_refused(capture: Path) -> None:
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    if not names:
        pytest.skip("this machine has only the loopback interface")
    began_s = time.monotonic()
    for name in names:
        done = subprocess.run(
            [sys.executable, "-c", SENDER, str(capture), name, "100", "10", ""],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout)["code"] == 22
    assert time.monotonic() - began_s < 60
