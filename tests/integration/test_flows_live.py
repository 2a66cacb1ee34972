"""``kinwatch-agent flows`` on an interface: records leave by the wall clock, and a stop lets out what is open."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contract.exit_codes import ExitCode
from tests.integration.test_live_capture import SEND, pair
from tests.unit.device_agent.frames import udp

__all__ = ["pair"]

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None,
        reason="needs Linux, root and iproute2",
    ),
]


@pytest.fixture
def listening(pair):
    """Yield a function that starts the command in the second namespace and returns when it captures."""
    children = []

    def start(*arguments):
        command = [sys.executable, "-m", "device_agent", "flows", "eth0", "--format", "jsonl", *arguments]
        child = subprocess.Popen(
            ["ip", "netns", "exec", pair[1], *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        deadline_s = time.monotonic() + 30.0
        while "promiscuity 1" not in link(pair[1]):
            assert time.monotonic() < deadline_s, child.poll()
            time.sleep(0.05)
        time.sleep(0.2)
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()
        child.stderr.close()


def link(namespace):
    shown = ["ip", "-n", namespace, "-d", "link", "show", "eth0"]
    return subprocess.run(shown, check=True, capture_output=True, text=True, timeout=10).stdout


def send(pair, frames):
    subprocess.run(
        ["ip", "netns", "exec", pair[0], sys.executable, "-c", SEND, "eth0"],
        input="\n".join(frame.hex() for frame in frames),
        text=True,
        check=True,
        timeout=30,
    )


def test_flows_leave_while_no_packet_comes_and_at_a_stop(pair, listening):
    child = listening("--idle", "1")
    send(pair, [udp(sport=1_000 + i) for i in range(20)])
    ended = [json.loads(child.stdout.readline())["end_reason"] for _ in range(20)]
    assert ended == ["idle"] * 20, "by the clock: nothing was sent after them"
    send(pair, [udp(sport=2_000 + i) for i in range(5)])
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert [json.loads(line)["end_reason"] for line in out.splitlines()] in (["flush"] * 5, ["idle"] * 5)
    assert child.returncode == ExitCode.OK
    assert "25 flow records of 25 packets, 25 metered" in err


def test_seconds_end_a_capture(pair, listening):
    child = listening("--seconds", "4")
    send(pair, [udp(sport=1_000 + i) for i in range(3)])
    out, _ = child.communicate(timeout=30)
    assert len(out.splitlines()) == 3
    assert child.returncode == ExitCode.OK
