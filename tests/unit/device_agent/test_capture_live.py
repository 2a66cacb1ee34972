"""What the kernel says beside a frame, and how a failing socket is reported; the rest needs namespaces."""

import struct

import pytest

from device_agent.capture.live import _unpack_ancillary
from tests.unit.device_agent.frames import ethernet, ipv4, tcp_header

PACKET_AUXDATA = (263, 8)
TIMESTAMP = (1, 35)


def auxdata(status=0, length=0, tci=0, tpid=0):
    return *PACKET_AUXDATA, struct.pack("=IIIHHHH", status, length, 0, 0, 0, tci, tpid)


def test_time_and_wire_length_come_from_the_kernel():
    frame, time_us, wire_len = _unpack_ancillary(
        b"x" * 96, [(*TIMESTAMP, struct.pack("=qq", 1_700_000_000, 123_456_789)), auxdata(length=1_500)]
    )
    assert (len(frame), time_us, wire_len) == (96, 1_700_000_000_123_456, 1_500)


def test_a_32_bit_time_is_read_too():
    assert _unpack_ancillary(b"", [(*TIMESTAMP, struct.pack("=ii", 1_700_000_000, 1_000))])[1] == 1_700_000_000_000_001


@pytest.mark.parametrize(("status", "tpid", "want"), [(0x10, 0, 0x8100), (0x50, 0x88A8, 0x88A8)])
def test_a_tag_goes_back_in_front_of_the_ethertype(status, tpid, want):
    plain = ethernet(ipv4(tcp_header()))
    frame, _, wire_len = _unpack_ancillary(plain, [auxdata(status, len(plain), 42, tpid)])
    assert frame == ethernet(ipv4(tcp_header()), tags=[(want, 42)])
    assert wire_len == len(plain) + 4


def test_without_or_with_damaged_data_the_frame_stands_for_itself():
    frame, time_us, wire_len = _unpack_ancillary(b"abc", [(*PACKET_AUXDATA, b"\x00" * 5), (*TIMESTAMP, b"\x00")])
    assert (frame, wire_len) == (b"abc", 3)
    assert time_us > 1_700_000_000_000_000
