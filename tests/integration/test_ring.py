"""The packet ring on a veth pair between two network namespaces, and on loopback."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from contract.features import INDEX
from device_agent.capture.errors import CaptureInputError
from device_agent.capture.source import CaptureSettings
from device_agent.flows.meter import FlowMeter
from device_agent.flows.records import PacketBatch
from tests.integration.test_live_capture import SEND, pair
from tests.unit.device_agent.frames import ethernet, ipv4, tcp, udp, udp_header

__all__ = ["pair"]

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 1 << 20

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None,
        reason="needs Linux, root and iproute2",
    ),
]


def capture(pair, frames, *, wanted=None, timeout_s=20.0, ring_bytes=MEGABYTE, away_s=0.0):
    """Capture in the second namespace while the first one sends; return what the child saw."""
    command = [sys.executable, "-m", "tests.integration.ring_netns_child", "eth0"]
    command += [str(len(frames) if wanted is None else wanted), str(timeout_s), str(ring_bytes), str(away_s)]
    child = subprocess.Popen(
        ["ip", "netns", "exec", pair[1], *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "ready\n", child.stderr.read()
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
    return json.loads(out)


def from_file(frames):
    """Return identities and features of the same frames read as from a file, times aside."""
    meter = FlowMeter()
    closed = meter.feed(PacketBatch.from_frames(frames, [10**15 + i for i in range(len(frames))]))
    flows = meter.flush()
    assert len(closed) == 0
    identities = [
        [*flows.ip_text(i), int(r["src_port"]), int(r["dst_port"]), int(r["proto"]), int(r["vlan"])]
        for i, r in enumerate(flows.identity)
    ]
    return identities, flows.features


TIMELESS = [i for name, i in INDEX.items() if name[-2:] != "_s" and not name.startswith("initiator")]


def assert_same_flows(seen, frames):
    """The ring gives the flows that a file with these frames gives, in everything but time."""
    identities, features = from_file(frames)
    got = {json.dumps(identity): row for identity, row in zip(seen["identities"], seen["features"], strict=True)}
    assert sorted(got) == sorted(json.dumps(identity) for identity in identities)
    for identity, row in zip(identities, features, strict=True):
        np.testing.assert_allclose(np.array(got[json.dumps(identity)])[TIMELESS], row[TIMELESS], rtol=1e-12)


def test_flows_are_those_of_the_file_path(pair):
    """Sizes below and beyond the slot, several flows: headers, lengths on the wire and directions come through."""
    rng = random.Random(1)  # noqa: S311
    frames = [udp(sport=1_000 + i % 20, payload=b"x" * rng.randrange(1_400)) for i in range(400)]
    frames += [tcp(dport=1883), tcp(dport=8883)] * 50
    rng.shuffle(frames)
    seen = capture(pair, frames)
    assert seen["seen"] == len(frames)
    assert seen["counters"]["kernel_dropped_packets"] == 0
    assert seen["counters"]["oversized_packets"] == 0
    assert_same_flows(seen, frames)


def test_tags_that_the_kernel_took_off_come_back(pair):
    frames = [
        ethernet(ipv4(udp_header(), proto=17), tags=tags) for tags in ([(0x8100, 42)], [(0x88A8, 7), (0x8100, 9)], [])
    ]
    seen = capture(pair, frames * 5)
    assert seen["seen"] == 15
    assert_same_flows(seen, frames * 5)


def test_the_ring_goes_round(pair):
    """A ring of 4,096 slots is gone round at least once; no frame is lost or seen twice at the seam."""
    frames = [udp(sport=1_000 + i % 7, payload=bytes([i % 256]) * (i % 200)) for i in range(9_000)]
    seen = capture(pair, frames, ring_bytes=MEGABYTE, timeout_s=15.0)
    dropped = seen["counters"]["kernel_dropped_packets"]
    assert seen["seen"] + dropped == len(frames)
    assert seen["seen"] > 4_096
    if not dropped:
        assert_same_flows(seen, frames)


def test_what_the_ring_cannot_hold_is_counted(pair):
    frames = [udp(sport=1_000 + i % 5) for i in range(2_000)]
    seen = capture(pair, frames, wanted=2_000, ring_bytes=1, away_s=2.0, timeout_s=4.0)
    dropped = seen["counters"]["kernel_dropped_packets"]
    assert dropped > 1_000
    assert seen["seen"] + dropped == len(frames)
    assert seen["counters"]["packets"] == seen["seen"]


def test_batches_are_made_by_time(pair):
    """500 packets over some 20 ms arrive in a handful of batches, not in one of each few packets."""
    seen = capture(pair, [udp(sport=1_000 + i % 5) for i in range(500)])
    assert seen["seen"] == 500
    assert seen["batches"] <= 30


def loopback(bpf, **settings):
    from device_agent.capture.ring import RingSource

    return RingSource("lo", CaptureSettings(bpf=bpf, **settings))


def test_loopback_shows_each_packet_once_also_larger_than_any_slot():
    """Loopback carries 60,000 bytes at once, as offloading does elsewhere: length from the header, bytes cut."""
    source = loopback("udp port 47124")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(10):
                sender.sendto(b"x" * 60_000, ("127.0.0.1", 47_124))
        first = source.read(100, 5.0)
        rest = source.read(100, 0.2)
        assert len(first) + len(rest) == 10
        assert (first.wire_len == 60_042).all()
        assert (np.diff(first.offsets) <= 256).all()
        meter = FlowMeter()
        meter.feed(first)
        assert meter.flush().features[0, INDEX["fwd_len_max"]] == 60_028
    finally:
        source.close()


def test_a_longer_snap_length_takes_longer_slots():
    source = loopback("udp port 47125", snap_bytes=1_000)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x" * 5_000, ("127.0.0.1", 47_125))
        assert np.diff(source.read(10, 5.0).offsets).tolist() == [1_000]
    finally:
        source.close()


def test_reading_ends_in_time_when_nothing_comes():
    source = loopback("udp port 47126")
    try:
        assert len(source.read(10, 0.05)) == 0
    finally:
        source.close()
        source.close()


def test_an_interface_that_does_not_exist_is_named():
    from device_agent.capture.ring import RingSource

    with pytest.raises(CaptureInputError, match="'nope0': no such interface"):
        RingSource("nope0", CaptureSettings())
