"""The sender and a receiver of the live benchmark on a veth pair of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.flow_meter.live import namespaces
from benchmarks.flow_meter.receivers import all_of, listen
from contract.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None,
        reason="needs Linux, root and iproute2",
    ),
]


def send(namespace, mark):
    return subprocess.run(
        [
            "ip",
            "netns",
            "exec",
            namespace,
            sys.executable,
            "-m",
            "benchmarks.flow_meter.sender",
            "eth0",
            mark,
            "2000",
            "1",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_what_is_sent_is_counted_by_sender_interface_and_ring():
    with namespaces() as pair:
        sent, seen = listen(
            all_of(6.0)[0],
            ["ip", "netns", "exec", pair.listener],
            lambda: json.loads(send(pair.sender, pair.mark).stdout),
        )
    assert (sent["offered"], sent["sent"], sent["refused"], sent["by_interface"]) == (2_000, 2_000, 0, 2_010)
    assert (seen["seen"], seen["kernel_dropped"]) == (2_010, 0)


def test_the_sender_refuses_the_other_end_and_the_pair_of_another_run():
    with namespaces() as pair:
        for namespace, mark in ((pair.sender, "other"), (pair.listener, pair.mark)):
            done = send(namespace, mark)
            assert (done.returncode, done.stdout) == (ExitCode.INTERLOCK, "")
            assert "refused" in done.stderr
