"""Live capture on a veth pair between two network namespaces."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from contract.exit_codes import ExitCode
from device_agent.capture.errors import CaptureInputError, CapturePermissionError
from device_agent.capture.ring import RingSource
from device_agent.capture.source import CaptureSettings, open_source
from tests.unit.device_agent.frames import A, B, C, ethernet, ipv4, tcp, udp, udp_header

ROOT = Path(__file__).resolve().parents[2]
PACKETS = 500

needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None,
    reason="needs Linux, root and iproute2",
)

SEND = """
import json, socket, sys, time
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind((sys.argv[1], 0))
for i, line in enumerate(sys.stdin):
    sock.send(bytes.fromhex(line))
    if i % 50 == 49:
        time.sleep(0.002)
"""


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


@pytest.fixture
def pair():
    """Two namespaces joined by a veth pair ``eth0`` - ``eth0``, without addresses; yields (sender, listener)."""
    tag = uuid.uuid4().hex[:6]
    names = f"kwt-{tag}-a", f"kwt-{tag}-b"
    try:
        for name in names:
            ip("netns", "add", name)
            # No IPv6, so that the kernel itself sends nothing.
            subprocess.run(
                ["ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"],
                check=False,
                capture_output=True,
                timeout=10,
            )
        ip("-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name in names:
            ip("-n", name, "link", "set", "eth0", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=10)


def child_command(namespace, bpf, wanted, timeout_s):
    child = [sys.executable, "-m", "tests.integration.capture_netns_child"]
    return ["ip", "netns", "exec", namespace, *child, "eth0", bpf, str(wanted), str(timeout_s)]


def capture(pair, frames, *, bpf="", wanted=None, timeout_s=20.0):
    """Capture in the second namespace while the first one sends; return what the child saw."""
    child = subprocess.Popen(
        child_command(pair[1], bpf, len(frames) if wanted is None else wanted, timeout_s),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "ready\n", child.stderr.read()
        promiscuous = json.loads(
            subprocess.run(
                ["ip", "-n", pair[1], "-j", "-d", "link", "show", "eth0"], check=True, capture_output=True, timeout=10
            ).stdout
        )[0]["promiscuity"]
        subprocess.run(
            ["ip", "netns", "exec", pair[0], sys.executable, "-c", SEND, "eth0"],
            input="\n".join(frame.hex() for frame in frames),
            text=True,
            check=True,
            timeout=30,
        )
        out, err = child.communicate(timeout=timeout_s + 20)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        child.stderr.close()
    assert child.returncode == 0, err
    return json.loads(out) | {"promiscuity": promiscuous}


@pytest.mark.netns
@needs_root
class TestNamespaces:
    def test_all_packets_are_seen_with_kernel_times_and_wire_lengths(self, pair):
        before_us = time.time_ns() // 1_000
        seen = capture(pair, [udp(sport=1_000 + i % 50, payload=b"x" * 600) for i in range(PACKETS)])
        assert seen["seen"] == PACKETS
        assert seen["counters"]["packets"] == PACKETS
        assert seen["counters"].get("kernel_dropped_packets", 0) == 0
        assert len(seen["flows"]) == 50
        assert seen["bytes"] == PACKETS * 628, "lengths are those on the wire, not of the 96 bytes kept"
        assert before_us <= seen["first_us"] <= seen["last_us"] <= seen["now_us"]
        assert seen["promiscuity"] == 1

    def test_a_filter_takes_what_it_names(self, pair):
        frames = [udp(dst=C, dport=53), tcp(dport=1883), udp(dport=5683)] * 20
        seen = capture(pair, frames, bpf="tcp port 1883 or host 10.0.0.3", wanted=40)
        assert seen["seen"] == 40
        assert {tuple(flow) for flow in seen["flows"]} == {(A, B, 40000, 1883, 6, 0), (A, C, 40000, 53, 17, 0)}

    def test_tags_that_the_kernel_took_off_come_back(self, pair):
        seen = capture(pair, [ethernet(ipv4(udp_header(), proto=17), tags=[(0x8100, 42)])] * 5)
        assert seen["flows"] == [[A, B, 40000, 53, 17, 42]]
        assert seen["bytes"] == 5 * 28

    def test_a_bad_filter_names_itself(self, pair):
        done = subprocess.run(
            child_command(pair[1], "no such filter", 1, 1.0),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert "CaptureInputError" in done.stderr
        assert "'no such filter' does not compile" in done.stderr


@pytest.mark.netns
@needs_root
def test_loopback_shows_each_packet_once():
    source = open_source("iface:lo", CaptureSettings(bpf="udp port 47123"))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(10):
                sender.sendto(b"x", ("127.0.0.1", 47_123))
        first = source.read(100, 5.0)
        rest = source.read(100, 0.2)
        assert len(first) + len(rest) == 10
        assert source.live
    finally:
        source.close()


def test_an_interface_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(CaptureInputError, match=r"'nope0': no such interface; there are .*lo") as caught:
        open_source("iface:nope0")
    assert caught.value.exit_code == ExitCode.CAPTURE_INPUT


def test_no_permission_says_how(monkeypatch):
    """The socket refuses as it does for an ordinary user."""
    from scapy.config import conf

    import device_agent.capture.live

    def refuse(**_):
        raise PermissionError(1, "Operation not permitted")

    device_agent.capture.live.load_platform()
    monkeypatch.setattr(conf, "L2listen", refuse)
    with pytest.raises(CapturePermissionError, match=r"CAP_NET_RAW.*systemd.*setcap") as caught:
        open_source("iface:lo")
    assert caught.value.exit_code == ExitCode.PERMISSION


@pytest.mark.netns
@needs_root
def test_a_kernel_without_rings_still_captures(monkeypatch):
    def refuse(_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    source = open_source("iface:lo", CaptureSettings(bpf="udp port 47127"))
    assert isinstance(source, RingSource)
    source.close()
    monkeypatch.setattr(RingSource, "_map", refuse)
    source = open_source("iface:lo", CaptureSettings(bpf="udp port 47127"))
    try:
        assert not isinstance(source, RingSource)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", ("127.0.0.1", 47_127))
        assert len(source.read(10, 5.0)) == 1
    finally:
        source.close()
