"""pcapng by hand: sections, interfaces with their own clocks, all kinds of packet blocks, blocks that are none."""

import os
import struct

import pytest

from device_agent.capture.errors import CaptureInputError
from device_agent.capture.files import CaptureFile
from device_agent.capture.source import CaptureSettings, open_source
from tests.unit.device_agent.frames import udp
from tests.unit.device_agent.test_capture_files import block, drain, write

NOW_US = 1_700_000_000_000_001
FRAMES = [udp(payload=bytes([i]) * (i + 1)) for i in range(4)]


def section(order="<", options=b""):
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1) + options, order)


def option(code, value, order="<"):
    return struct.pack(order + "HH", code, len(value)) + value + b"\x00" * (-len(value) % 4)


def interface(link_type=1, snap=0, *, resolution=None, offset_s=None, order="<", more=b""):
    options = more
    if resolution is not None:
        options += option(9, bytes([resolution]), order)
    if offset_s is not None:
        options += option(14, struct.pack(order + "q", offset_s), order)
    return block(1, struct.pack(order + "HHI", link_type, 0, snap) + options, order)


def packet(frame, ticks, number=0, *, order="<", wire_len=None, options=b""):
    head = struct.pack(order + "5I", number, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), wire_len or len(frame))
    return block(6, head + frame + b"\x00" * (-len(frame) % 4) + options, order)


def old_packet(frame, ticks, number=0, *, order="<"):
    head = struct.pack(order + "HH4I", number, 7, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    return block(2, head + frame, order)


def simple(frame, wire_len=None, *, order="<"):
    return block(3, struct.pack(order + "I", wire_len or len(frame)) + frame, order)


def read(tmp_path, *blocks):
    """Return frames, times and lengths of a file, and its counters."""
    source = open_source(write(tmp_path, b"".join(blocks), "x.pcapng"), CaptureSettings(snap_bytes=65_535))
    return *drain(source), source.counters()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("other", "<>")
def test_every_section_has_its_own_interfaces_and_byte_order(tmp_path, order, other):
    frames, times, _, counters = read(
        tmp_path,
        section(order),
        interface(order=order),
        interface(order=order, resolution=9),
        packet(FRAMES[0], NOW_US, order=order),
        packet(FRAMES[1], NOW_US * 1_000 + 999, 1, order=order),
        section(other),
        interface(order=other, resolution=3),
        packet(FRAMES[2], NOW_US // 1_000, order=other),
        packet(FRAMES[3], NOW_US, 1, order=other),
    )
    assert frames == FRAMES[:3]
    assert times == [NOW_US, NOW_US, NOW_US // 1_000 * 1_000]
    assert counters == {"packets": 3, "truncated": 0, "undescribed_dropped_packets": 1}


@pytest.mark.parametrize("order", "<>")
def test_link_types_of_later_sections(tmp_path, order):
    blocks = [
        *(section(order), interface(113, order=order), packet(FRAMES[0], NOW_US, order=order)),
        *(section(order), interface(1, order=order), packet(FRAMES[1], NOW_US, order=order)),
    ]
    source = open_source(write(tmp_path, b"".join(blocks), "x.pcapng"))
    batches = []
    while (batch := source.read(10, 0.0)) is not None:
        batches.append((batch.link_type, len(batch)))
    assert batches == [(113, 1), (1, 1)]


@pytest.mark.parametrize(
    ("resolution", "ticks_per_s"), [(None, 10**6), (0, 1), (3, 10**3), (9, 10**9), (10, 10**10), (0x80 | 20, 1 << 20)]
)
@pytest.mark.parametrize("offset_s", [None, 0, 1_600_000_000, -5])
def test_clocks_of_interfaces(tmp_path, resolution, ticks_per_s, offset_s):
    """A resolution is a power of 10 or of 2; an offset is whole seconds, also negative ones."""
    counted_us = NOW_US - (offset_s or 0) * 1_000_000
    ticks = counted_us * ticks_per_s // 1_000_000
    _, times, _, _ = read(
        tmp_path, section(), interface(resolution=resolution, offset_s=offset_s), packet(FRAMES[0], ticks)
    )
    assert times == [ticks * 1_000_000 // ticks_per_s + (offset_s or 0) * 1_000_000]
    assert 0 <= NOW_US - times[0] <= 1_000_000 // ticks_per_s + 1


def test_times_stay_within_what_can_be_counted(tmp_path):
    """Ticks, resolutions and offsets at their ends: no packet is before 1970, none after 2**62 microseconds."""
    _, times, _, _ = read(
        tmp_path,
        section(),
        interface(resolution=0, offset_s=2**63 - 1),
        interface(resolution=0x7F),
        interface(offset_s=-(2**63)),
        *(packet(FRAMES[0], 2**64 - 1, number) for number in range(3)),
    )
    assert times == [1 << 62, 0, 0]


@pytest.mark.parametrize("order", "<>")
def test_simple_packets_are_of_the_first_interface_and_take_the_last_time(tmp_path, order):
    frames, times, lengths, _ = read(
        tmp_path,
        section(order),
        interface(snap=60, order=order),
        interface(113, order=order),
        packet(FRAMES[0], NOW_US, order=order),
        simple(FRAMES[1][:60].ljust(60), 1_400, order=order),
        simple(FRAMES[2], order=order),
    )
    assert frames == [FRAMES[0], FRAMES[1][:60].ljust(60), FRAMES[2]]
    assert times == [NOW_US] * 3
    assert lengths == [len(FRAMES[0]), 1_400, len(FRAMES[2])]


def test_simple_packets_without_a_snap_length_are_whole(tmp_path):
    frames, times, _, _ = read(tmp_path, section(), interface(snap=0), simple(FRAMES[0]), simple(FRAMES[1]))
    assert frames == FRAMES[:2]
    assert times == [0, 0]


@pytest.mark.parametrize("order", "<>")
def test_packets_of_the_old_kind(tmp_path, order):
    ticks = NOW_US * 1_000
    frames, times, _, _ = read(
        tmp_path, section(order), interface(order=order), interface(resolution=9, order=order),
        old_packet(FRAMES[0], ticks, 1, order=order), old_packet(FRAMES[1], NOW_US, order=order),
    )  # fmt: skip
    assert frames == FRAMES[:2]
    assert times == [NOW_US, NOW_US]


def test_other_blocks_are_passed_over(tmp_path):
    """Names, statistics, journals, secrets (whole and damaged), custom ones, and kinds nobody knows."""
    secrets = struct.pack("<II", 0x544C534B, 4) + b"ABCD"
    others = [
        *((4, b"\x00" * 4), (5, b"\x00" * 12), (9, b"x" * 5), (10, secrets), (10, b"\x01"), (0x0BAD, b"\x00" * 4)),
        *((0x40000BAD, b""), (0x80000001, b"\x01"), (0xFFFFFFFF, b"?" * 99)),
    ]
    frames, _, _, counters = read(
        tmp_path,
        section(options=option(3, b"Linux") + option(0, b"")),
        interface(more=option(2, b"eth0") + option(1, b"a comment")),
        packet(FRAMES[0], NOW_US),
        *(block(kind, body) for kind, body in others),
        packet(FRAMES[1], NOW_US, options=option(2, b"\x01") + option(1, b"of no use")),
    )
    assert frames == FRAMES[:2]
    assert counters["packets"] == 2


@pytest.mark.parametrize(
    "more", [option(9, b"\x06\x06"), option(14, b"\x00" * 4), struct.pack("<HH", 9, 999), b"\x09\x00", option(9, b"")]
)
def test_damaged_options_of_an_interface_leave_its_clock_as_it_is(tmp_path, more):
    assert read(tmp_path, section(), interface(more=more), packet(FRAMES[0], NOW_US))[1] == [NOW_US]


def test_packets_of_undescribed_interfaces_are_counted(tmp_path):
    *_, counters = read(
        tmp_path, section(), simple(FRAMES[0]), interface(), packet(FRAMES[1], NOW_US, 1), old_packet(FRAMES[1], 1, 2)
    )
    assert counters == {"packets": 0, "truncated": 0, "undescribed_dropped_packets": 3}


@pytest.mark.parametrize(
    "bad",
    [
        block(6, struct.pack("<5I", 0, 0, 0, 100, 100) + b"x" * 8),
        block(2, struct.pack("<HH4I", 0, 0, 0, 0, 100, 100) + b"x" * 8),
        block(3, struct.pack("<I", 100) + b"x" * 8),
        block(6, b"x" * 8),
        block(3, b""),
        block(1, b"\x01\x00"),
        struct.pack("<III", 6, 8, 8),
        struct.pack("<III", 5, 12, 16),
        block(0x0A0D0D0A, struct.pack("<IHHq", 0x11111111, 1, 0, -1)),
    ],
    ids=["packet", "old", "simple", "short packet", "short simple", "interface", "short block", "lengths", "section"],
)
def test_damage_ends_the_capture_after_the_good_packets(tmp_path, bad):
    path = write(tmp_path, section() + interface() + packet(FRAMES[0], NOW_US) + bad + packet(FRAMES[1], NOW_US))
    source = open_source(path)
    assert len(source.read(10, 0.0)) == 1
    with pytest.raises(CaptureInputError, match="is damaged at byte"):
        source.read(10, 0.0)
    assert source.counters()["truncated"] == 1


def test_an_unknown_link_type_is_named_also_behind_an_empty_section(tmp_path):
    path = write(tmp_path, section() + interface(147) + packet(FRAMES[0], NOW_US) + section())
    source = open_source(path)
    assert len(source.read(10, 0.0)) == 1
    with pytest.raises(CaptureInputError, match="link type 147"):
        source.read(10, 0.0)


def test_blocks_that_come_piece_by_piece(tmp_path):
    """Interfaces and packets are counted once, however often a block was tried."""
    data = b"".join(
        [section(), interface(resolution=9), packet(FRAMES[0], NOW_US * 1_000), packet(FRAMES[1], 1, 4), section(">"),
         interface(order=">"), packet(FRAMES[2], NOW_US, order=">"), packet(FRAMES[3], NOW_US, 1, order=">")]
    )  # fmt: skip
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    source = CaptureFile("pipe", reading, CaptureSettings())
    times = []
    for at in range(0, len(data), 5):
        os.write(writing, data[at : at + 5])
        times += source.read(10, 0.0).ts_us.tolist()
    os.close(writing)
    while (batch := source.read(10, 0.0)) is not None:
        times += batch.ts_us.tolist()
    assert times == [NOW_US, NOW_US]
    assert source.counters()["undescribed_dropped_packets"] == 2
