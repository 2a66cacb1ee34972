"""Packets of few endpoints for Hypothesis: flows meet, end, come back and get in each other's way."""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from device_agent.flows.applications import N_APPLICATIONS, Kind
from device_agent.flows.records import FlowBatch, PacketBatch
from tests.unit.device_agent import fast_heads

V4 = tuple(bytes([10, 0, 0, i]) for i in range(1, 4))
V6 = (*(bytes([0xFE, 0x80, *[0] * 13, i]) for i in range(1, 3)), b"\x00" * 10 + b"\xff\xff" + V4[0])
PORTS = (0, 443, 1883, 53)
SEQS = (0, 1, 2, 700, 2**32 - 300, 2**31, 2**31 + 1, 3 << 30)
TCP_FLAGS = (0x02, 0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x11, 0x04, 0x14, 0x00, 0x3F, 0x03, 0x06, 0x42)
STEPS_US = (0, 1, 300, 40_000, 999_999, 1_000_000, 2_500_000, 6_000_000, 16_000_000, 61_000_000)
BACK_US = (-1, -300, -40_000, -1_200_000, -7_000_000, -30_000_000, -61_000_000)


@dataclass(frozen=True)
class Shape:
    """What a packet looks like; ``damage`` cuts the frame at a byte."""

    v6: bool
    src: int
    dst: int
    src_port: int
    dst_port: int
    proto: int
    flags: int
    seq: int
    window: int
    payload: int
    link: int
    extra: int
    fragment: int
    damage: int | None


shapes = st.builds(
    Shape,
    v6=st.sampled_from((False, False, False, True)),
    src=st.integers(0, 2),
    dst=st.integers(0, 2),
    src_port=st.sampled_from(PORTS),
    dst_port=st.sampled_from(PORTS),
    proto=st.sampled_from((6, 6, 6, 6, 17, 1, 47)),
    flags=st.sampled_from(TCP_FLAGS),
    seq=st.sampled_from(SEQS),
    window=st.sampled_from((0, 1, 29_200, 65_535)),
    payload=st.sampled_from((0, 0, 1, 100, 1_400)),
    link=st.sampled_from((0, 0, 0, 0, 1, 2, 3)),
    extra=st.sampled_from((0, 0, 0, 0, 1, 2, 3)),
    fragment=st.sampled_from((0, 0, 0, 0, 0, 0, 1, 2)),
    damage=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 90)),
)


def frame_of(shape: Shape) -> tuple[bytes, int]:
    """Return captured bytes and length on the wire."""
    if shape.proto == 6:
        offset = (0x50, 0x50, 0x60, 0x40)[shape.extra]
        body = struct.pack("!HHIIBBH", shape.src_port, shape.dst_port, shape.seq, 0, offset, shape.flags, shape.window)
        body += b"\x00" * (8 if offset == 0x60 else 4)
    elif shape.proto == 17:
        body = struct.pack("!HHHH", shape.src_port, shape.dst_port, 8, 0)
    else:
        body = struct.pack("!BBHI", 8, 0, 0, 1)
    # Half of the payloads begin like a TLS handshake.
    body += (b"x", b"\x16")[shape.window & 1] * shape.payload
    network = _ipv6(shape, body) if shape.v6 else _ipv4(shape, body)
    ethertype = 0x86DD if shape.v6 else 0x0800
    link = (
        struct.pack("!H", ethertype),
        struct.pack("!HHH", 0x8100, 0x2005, ethertype),
        struct.pack("!HHHHH", 0x88A8, 7, 0x8100, 5, ethertype),
        struct.pack("!H", 0x0806),
    )[shape.link]
    frame = b"\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02" + link + network
    return frame if shape.damage is None else frame[: shape.damage], len(frame)


def _ipv4(shape: Shape, body: bytes) -> bytes:
    options = b"\x01" * 4 if shape.extra == 1 else b""
    fragment = (0, 0x2000, 0x0010)[shape.fragment]
    total = 0 if shape.extra == 3 else 20 + len(options) + len(body)
    head = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, total, 1, fragment, 64, shape.proto, 0)
    return head + V4[shape.src] + V4[shape.dst] + options + body


def _ipv6(shape: Shape, body: bytes) -> bytes:
    proto = shape.proto
    if shape.extra == 1:
        body, proto = struct.pack("!BB", proto, 0) + b"\x00" * 6 + body, 0
    elif shape.extra == 2:
        body, proto = struct.pack("!BB", proto, 4) + b"\x00" * 22 + body, 51
    if shape.fragment:
        body, proto = struct.pack("!BBHI", proto, 0, (0, 1, 8 * 16)[shape.fragment], 1) + body, 44
    head = struct.pack("!IHBB", 6 << 28, 0 if shape.extra == 3 else len(body), proto, 64)
    return head + V6[shape.src] + V6[shape.dst] + body


@st.composite
def streams(draw: st.DrawFn, max_packets: int = 60) -> PacketBatch:
    """Return a short stream; its times mostly go on, sometimes back."""
    packets = draw(
        st.lists(st.tuples(shapes, st.sampled_from(STEPS_US * 3 + BACK_US)), min_size=1, max_size=max_packets)
    )
    return _batch(
        [shape for shape, _ in packets], [step for _, step in packets], draw(st.sampled_from((0, 10**15 + 7)))
    )


def long_stream(seed: int, n_packets: int, *, in_order: bool) -> PacketBatch:
    """Return a stream too long for Hypothesis to draw, of few enough shapes that flows are long."""
    rng = np.random.default_rng(seed)
    # Numbers that wrap, near each other in half of the streams, else so far apart that their order is arguable.
    seqs = (0, 2**32 - 300, 700) if seed % 2 else (0, 2**32 - 300, 3 << 29)
    kinds = [
        Shape(
            v6=bool(rng.random() < 0.2),
            src=int(rng.integers(3)),
            dst=int(rng.integers(3)),
            src_port=int(rng.choice(PORTS)),
            dst_port=int(rng.choice(PORTS)),
            proto=int(rng.choice((6, 6, 6, 17, 1))),
            flags=int(rng.choice((*TCP_FLAGS, *(0x10, 0x18) * 12))),
            seq=seqs[int(rng.integers(3))],
            window=int(rng.integers(65_536)),
            payload=int(rng.choice((0, 1, 500))),
            link=int(rng.choice((0, 0, 0, 0, 1))),
            extra=int(rng.choice((0, 0, 0, 0, 1))),
            fragment=int(rng.choice((0,) * 30 + (1, 2))),
            damage=None if rng.random() < 0.97 else int(rng.integers(90)),
        )
        for _ in range(150)
    ]
    steps = rng.choice((0, 1, 200, 3_000, 40_000), size=n_packets)
    steps[rng.random(n_packets) < 0.01] = 3_000_000
    steps[rng.random(n_packets) < 0.001] = 20_000_000
    if not in_order:
        steps[rng.random(n_packets) < 0.1] = -30_000
        steps[rng.random(n_packets) < 0.005] = -2_000_000
        steps[rng.random(n_packets) < 0.001] = -70_000_000
    return _batch([kinds[i] for i in rng.integers(len(kinds), size=n_packets)], steps.tolist(), 10**15)


def _batch(packets: list[Shape], steps: list[int], start_us: int) -> PacketBatch:
    built = [frame_of(shape) for shape in packets]
    times = np.maximum(start_us + np.cumsum(np.array(steps, dtype=np.int64)), -3)
    return PacketBatch.from_frames([f for f, _ in built], times.tolist(), [n for _, n in built])


class Told:
    """A dissector that says something else of every payload, and of some that they are malformed."""

    by_head = False

    def dissect(self, kind: Kind, payload: bytes) -> int | None:
        found = zlib.crc32(payload, kind)
        return None if found % 5 == 0 else found >> 8 & (1 << N_APPLICATIONS) - 1


class ToldByHead(Told):
    """The same of payloads with the same head."""

    by_head = True

    def __init__(self) -> None:
        self._compiled = fast_heads.library()

    def dissect(self, kind: Kind, payload: bytes) -> int | None:
        return super().dissect(kind, fast_heads.head(self._compiled, kind, payload))


def assert_same_records(expected: FlowBatch, got: FlowBatch) -> None:
    """Fail unless both hold the same records: identities equal, features equal or within 1e-9."""
    assert len(expected) == len(got)
    sides = []
    for batch in (expected, got):
        identity = batch.identity
        order = np.lexsort((identity["end_reason"], identity["part_index"], identity["flow_id"], identity["ts_end_us"]))
        sides.append(batch.select(order))
    left, right = sides
    for name in left.identity.dtype.names:
        np.testing.assert_array_equal(left.identity[name], right.identity[name], err_msg=name)
    whole = (left.features == np.rint(left.features)) & (left.features < 2**53)
    np.testing.assert_array_equal(np.rint(right.features)[whole], left.features[whole])
    np.testing.assert_allclose(right.features, left.features, rtol=1e-9, atol=0)
