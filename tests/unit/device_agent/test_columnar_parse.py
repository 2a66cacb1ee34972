"""The batch parser against the parser of single frames, on whole, cut and mutated frames of every link type."""

import random

import numpy as np
import pytest

from device_agent.flows.columnar.headers import _FEW
from device_agent.flows.columnar.parse import parse_batch
from device_agent.flows.packets import LINK_TYPES, Packet, parse
from device_agent.flows.records import PacketBatch
from tests.unit.device_agent.frames import arp, ethernet, icmp, ipv4, ipv6, tcp, tcp_header, udp, udp_header

NETWORK = {14: ethernet, 0: lambda body, ethertype=0x0800: body}


def samples():
    """Frames of every kind, Ethernet."""
    six_options = ipv6(b"\x06\x00" + b"\x00" * 6 + tcp_header(), next_header=0)
    six_fragment = ipv6(b"\x06\x00\x00\x10" + b"\x00" * 4 + b"x" * 40, next_header=44)
    return [
        tcp(payload=b"x" * 30),
        tcp(flags=0x02),
        udp(payload=b"y" * 90),
        icmp(),
        arp(),
        ethernet(b"\x00" * 60, 0x88CC),
        ethernet(ipv4(tcp_header(), options=b"\x01" * 8)),
        ethernet(ipv4(b"z" * 64, fragment=0x0010)),
        ethernet(ipv4(tcp_header() + b"z" * 40, fragment=0x2000)),
        ethernet(ipv4(udp_header(), proto=17), tags=[(0x8100, 5)]),
        ethernet(ipv4(udp_header(), proto=17), tags=[(0x88A8, 6), (0x8100, 5)]),
        ethernet(ipv4(udp_header(), proto=17), tags=[(0x88A8, 6), (0x8100, 5), (0x8100, 4)]),
        ethernet(ipv6(tcp_header()), 0x86DD),
        ethernet(six_options, 0x86DD),
        ethernet(six_fragment, 0x86DD),
        ethernet(ipv6(b"\x3a" * 16, next_header=58), 0x86DD),
        ethernet(ipv4(tcp_header(offset=3))),
        ethernet(ipv4(tcp_header(), total=0)),
        ethernet(ipv4(tcp_header(), total=19)),
        ethernet(ipv4(tcp_header(), ihl=3)),
        ethernet(ipv4(b"\x00" * 30, proto=47)),
    ]


def check(frames, link_type, wire=None):
    """Compare column by column with the parser of single frames."""
    wire = wire or [len(frame) for frame in frames]
    batch = PacketBatch.from_frames(frames, range(len(frames)), wire, link_type)
    packets, refused = parse_batch(batch)
    expected = [parse(f, int(w), link_type) for f, w in zip(frames, batch.wire_len, strict=True)]
    kept = [i for i, packet in enumerate(expected) if isinstance(packet, Packet)]
    counts: dict[str, int] = {}
    for packet in expected:
        if isinstance(packet, str):
            counts[packet] = counts.get(packet, 0) + 1
    assert refused == counts
    assert packets.at.tolist() == kept
    words = {int(i): row for i, row in zip(packets.v6_at, packets.v6_words, strict=True)}
    for i, at in enumerate(kept):
        want = expected[at]
        ends = [(want.src, want.src_port), (want.dst, want.dst_port)]
        swapped = ends[0] > ends[1]
        low, high = sorted(ends)
        key_1 = low[1] << 48 | high[1] << 32 | want.vlan << 8 | want.proto
        assert int(packets.key_1[i]) == key_1
        assert bool(packets.swapped[at]) == swapped
        assert bool(packets.symmetric[at]) == (ends[0] == ends[1])
        if len(want.src) == 4:
            assert int(packets.key_0[i]) == int.from_bytes(low[0] + high[0])
        else:
            assert words[i].astype(">u8").tobytes() == low[0] + high[0]
        got = (packets.ip_len[at], packets.payload_len[at], packets.flags[at], packets.has_tcp[at])
        assert tuple(map(int, got)) == (want.ip_len, want.payload_len, want.tcp_flags, want.has_tcp)
        if want.has_tcp:
            assert (int(packets.seq[at]), int(packets.window[at])) == (want.seq, want.window)


@pytest.mark.parametrize("copies", [1, _FEW])
def test_whole_frames(copies):
    """Few uncommon frames are read one by one, many in arrays."""
    check(samples() * copies, 1)


@pytest.mark.parametrize("copies", [1, 8])
def test_frames_cut_at_every_byte(copies):
    for frame in samples():
        check(
            [frame[:n] for n in range(min(len(frame), 100) + 1)] * copies,
            1,
            [len(frame)] * (min(len(frame), 100) + 1) * copies,
        )


@pytest.mark.parametrize("link_type", sorted(LINK_TYPES | {147}))
def test_every_link_type_with_any_bytes(link_type):
    rng = random.Random(link_type)  # noqa: S311
    start = {1: 14, 113: 16, 276: 20, 0: 4, 108: 4}.get(link_type, 0)
    frames = []
    for _ in range(600):
        body = rng.choice(samples())[14:]
        head = bytearray(rng.randbytes(start))
        ethertype = rng.choice([b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x81\x00"])
        if start >= 14:
            at = {14: 12, 16: 14, 20: 0}[start]
            head[at : at + 2] = ethertype
        elif start == 4:
            head = bytearray(
                rng.choice([b"\x02\x00\x00\x00", b"\x00\x00\x00\x02", b"\x1e\x00\x00\x00", b"\x00\x00\x00\x18"])
            )
        frame = bytearray(head + body)
        for _ in range(rng.choice([0, 0, 1, 3])):
            if frame:
                frame[rng.randrange(len(frame))] = rng.randrange(256)
        frames.append(bytes(frame[: rng.randrange(len(frame) + 1)] if rng.random() < 0.3 else frame))
    check(frames, link_type)


def test_an_empty_batch_has_no_packets():
    packets, refused = parse_batch(PacketBatch.from_frames([], []))
    assert len(packets) == 0
    assert refused == {}


def test_frames_need_not_begin_at_the_start_of_the_buffer():
    frames = samples() * 3
    batch = PacketBatch.from_frames(frames, range(len(frames)))
    part = batch.slice(5, 40)
    packets, _ = parse_batch(part)
    whole, _ = parse_batch(batch)
    inside = (whole.at >= 5) & (whole.at < 40)
    np.testing.assert_array_equal(packets.key_1, whole.key_1[inside])


@pytest.mark.parametrize("link_type", LINK_TYPES)
def test_many_frames_of_next_to_nothing(link_type, monkeypatch):
    """A buffer shorter than the largest field is read to its end, and no further."""
    monkeypatch.setattr("device_agent.flows.columnar.headers._FEW", 0)
    for frames in ([b"\x60"], [b"", b"\x45"], [b"\x00\x00\x00\x02"], [b"", b"\x02\x00\x00\x00\x60\x00"]):
        check(frames, link_type)


def test_the_last_bytes_of_the_buffer_are_read(monkeypatch):
    """Uncommon frames at its very end, fields of all sizes up to the last byte."""
    monkeypatch.setattr("device_agent.flows.columnar.headers._FEW", 0)
    for frame in samples():
        for cut in (0, 1, 2, 3):
            check([b"", frame[: len(frame) - cut]], 1, [0, len(frame)])
            check([b"", frame[: 14 + 20 + 16 - cut]], 1, [0, len(frame)])
