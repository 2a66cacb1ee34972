"""Header parsing: every rule of the module, and that hostile bytes get a reason instead of an exception."""

import struct
from ipaddress import ip_address

import numpy as np
import pytest

from device_agent.flows import packets
from device_agent.flows.packets import ACK, SYN, TCP, UDP, Packet, parse
from tests.unit.device_agent.frames import (
    A6,
    B6,
    A,
    B,
    arp,
    ethernet,
    icmp,
    ipv4,
    ipv6,
    tcp,
    tcp_header,
    udp,
    udp_header,
)


def look(frame, link_type=packets.ETHERNET, wire_len=None):
    return parse(frame, len(frame) if wire_len is None else wire_len, link_type)


def test_tcp_over_ipv4():
    assert look(tcp(flags=SYN | ACK, seq=9, window=512, payload=b"abc")) == Packet(
        src=ip_address(A).packed,
        dst=ip_address(B).packed,
        src_port=40000,
        dst_port=80,
        proto=TCP,
        vlan=0,
        ip_len=43,
        payload_len=3,
        payload_at=54,
        tcp_flags=SYN | ACK,
        window=512,
        seq=9,
        has_tcp=True,
    )


def test_ethernet_padding_is_neither_length_nor_payload():
    packet = look(tcp() + b"\x00" * 6)
    assert (packet.ip_len, packet.payload_len) == (40, 0)


def test_ip_and_tcp_options_are_no_payload():
    packet = look(ethernet(ipv4(tcp_header(options=b"\x01" * 12) + b"hello", options=b"\x01" * 8)))
    assert (packet.ip_len, packet.payload_len) == (20 + 8 + 32 + 5, 5)


def test_ecn_bits_are_no_flags():
    assert look(tcp(flags=0xC0 | SYN)).tcp_flags == SYN


def test_a_snapped_packet_keeps_its_lengths():
    frame = udp(payload=b"x" * 1000)
    packet = look(frame[:60], wire_len=len(frame))
    assert (packet.ip_len, packet.payload_len) == (1028, 1000)


def test_a_forged_total_length_is_capped_by_the_wire():
    packet = look(ethernet(ipv4(udp_header(payload=b"x"), proto=UDP, total=60_000)))
    assert packet.ip_len == 29


def test_total_length_zero_means_all_on_the_wire():
    packet = look(ethernet(ipv4(tcp_header() + b"x" * 3000, total=0)))
    assert (packet.ip_len, packet.payload_len) == (3040, 3000)


@pytest.mark.parametrize(
    ("tags", "vlan"),
    [
        ([(0x8100, 7)], 7),
        ([(0x8100, 0xE007)], 7),
        ([(0x88A8, 3), (0x8100, 7)], 3 << 12 | 7),
        ([(0x9100, 3), (0x8100, 7)], 3 << 12 | 7),
    ],
)
def test_vlan_tags(tags, vlan):
    packet = look(ethernet(ipv4(tcp_header()), tags=tags))
    assert (packet.vlan, packet.src_port) == (vlan, 40000)


def test_three_tags_are_not_followed():
    assert look(ethernet(ipv4(tcp_header()), tags=[(0x8100, 1)] * 3)) == packets.NON_IP


def test_a_truncated_tag():
    assert look(ethernet(b"", ethertype=0x8100)) == packets.TRUNCATED_LINK


@pytest.mark.parametrize(
    ("link_type", "header"),
    [
        (packets.LINUX_SLL, b"\x00" * 14 + b"\x08\x00"),
        (packets.LINUX_SLL2, b"\x08\x00" + b"\x00" * 18),
        (packets.BSD_NULL, b"\x02\x00\x00\x00"),
        (packets.BSD_NULL, b"\x00\x00\x00\x02"),
        (packets.BSD_LOOP, b"\x00\x00\x00\x02"),
        *((raw, b"") for raw in (12, 14, 101, 228)),
    ],
)
def test_other_link_types(link_type, header):
    packet = look(header + ipv4(udp_header(), proto=UDP), link_type)
    assert (packet.src, packet.dst_port, packet.ip_len) == (ip_address(A).packed, 53, 28)


@pytest.mark.parametrize("family", [10, 24, 28, 30])
def test_bsd_families_of_ipv6(family):
    packet = look(struct.pack("<I", family) + ipv6(tcp_header()), packets.BSD_NULL)
    assert packet.src == ip_address(A6).packed


def test_a_tag_behind_the_cooked_header():
    frame = b"\x00" * 14 + b"\x81\x00" + b"\x00\x07\x08\x00" + ipv4(tcp_header())
    assert look(frame, packets.LINUX_SLL).vlan == 7


def test_the_first_fragment_has_ports_and_later_ones_have_none():
    first = look(ethernet(ipv4(udp_header(payload=b"x" * 16, length=3000), proto=UDP, fragment=0x2000)))
    later = look(ethernet(ipv4(b"x" * 24, proto=UDP, fragment=3)))
    assert (first.src_port, first.dst_port, first.payload_len) == (40000, 53, 16)
    assert (later.src_port, later.dst_port, later.payload_len, later.ip_len) == (0, 0, 24, 44)


def test_a_later_tcp_fragment_has_no_flags():
    later = look(ethernet(ipv4(tcp_header(flags=SYN), fragment=1)))
    assert (later.tcp_flags, later.has_tcp, later.proto) == (0, False, TCP)


def test_icmp_has_no_ports_and_eight_bytes_of_header():
    packet = look(icmp(payload=b"x" * 56))
    assert (packet.proto, packet.src_port, packet.dst_port, packet.payload_len) == (1, 0, 0, 56)


def test_tcp_over_ipv6():
    packet = look(ethernet(ipv6(tcp_header(flags=SYN) + b"ab"), 0x86DD))
    assert (packet.src, packet.dst) == (ip_address(A6).packed, ip_address(B6).packed)
    assert (packet.ip_len, packet.payload_len, packet.tcp_flags) == (62, 2, SYN)


def test_ipv6_extension_headers_are_walked():
    hop = bytes([43, 0]) + b"\x00" * 6
    routing = bytes([60, 1]) + b"\x00" * 14
    options = bytes([51, 0]) + b"\x00" * 6
    authentication = bytes([UDP, 4]) + b"\x00" * 22
    body = hop + routing + options + authentication + udp_header(payload=b"xyz")
    packet = look(ethernet(ipv6(body, next_header=0), 0x86DD))
    assert (packet.proto, packet.dst_port, packet.payload_len, packet.ip_len) == (UDP, 53, 3, 40 + len(body))


def test_ipv6_fragments():
    first = struct.pack("!BBHI", UDP, 0, 1, 5) + udp_header(payload=b"x" * 8)
    later = struct.pack("!BBHI", UDP, 0, 2 << 3, 5) + b"x" * 10
    one = look(ethernet(ipv6(first, next_header=44), 0x86DD))
    two = look(ethernet(ipv6(later, next_header=44), 0x86DD))
    assert (one.dst_port, one.payload_len) == (53, 8)
    assert (two.dst_port, two.payload_len, two.proto) == (0, 10, UDP)


def test_endless_extension_headers_end():
    assert look(ethernet(ipv6((bytes([60, 0]) + b"\x00" * 6) * 9, next_header=60), 0x86DD)) == packets.MALFORMED_IP


def test_other_transports_are_metered_without_ports():
    packet = look(ethernet(ipv4(b"x" * 30, proto=47)))
    assert (packet.proto, packet.src_port, packet.payload_len) == (47, 0, 30)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", packets.TRUNCATED_LINK),
        (b"\x00" * 13, packets.TRUNCATED_LINK),
        (arp(), packets.ARP),
        (ethernet(b"x" * 40, 0x88CC), packets.NON_IP),
        (ethernet(b"\x42\x42\x03" + b"x" * 40, 0x0026), packets.NON_IP),
        (ethernet(ipv4(tcp_header())[:19]), packets.TRUNCATED_IP),
        (ethernet(ipv4(tcp_header(), options=b"\x01" * 8)[:24]), packets.MALFORMED_IP),
        (ethernet(ipv4(tcp_header(), version=5)), packets.MALFORMED_IP),
        (ethernet(ipv4(tcp_header(), ihl=4)), packets.MALFORMED_IP),
        (ethernet(ipv4(tcp_header(), total=10)), packets.MALFORMED_IP),
        (ethernet(ipv4(tcp_header(), total=39)), packets.MALFORMED_TRANSPORT),
        (ethernet(ipv4(tcp_header(offset=4))), packets.MALFORMED_TRANSPORT),
        (ethernet(ipv4(tcp_header(offset=6))), packets.MALFORMED_TRANSPORT),
        (ethernet(ipv4(b"x" * 7, proto=UDP)), packets.MALFORMED_TRANSPORT),
        (ethernet(ipv6(tcp_header())[:39], 0x86DD), packets.TRUNCATED_IP),
        (ethernet(ipv6(tcp_header(), version=4), 0x86DD), packets.MALFORMED_IP),
        (ethernet(ipv6(bytes([UDP, 9]) + b"\x00" * 6, next_header=60), 0x86DD), packets.MALFORMED_IP),
        (ethernet(ipv6(b"\x00" * 4, next_header=60), 0x86DD), packets.MALFORMED_IP),
    ],
)
def test_reasons(frame, reason):
    assert look(frame) == reason


@pytest.mark.parametrize(
    ("frame", "kept", "reason"),
    [
        (tcp(), 34, packets.TRUNCATED_TRANSPORT),
        (tcp(), 49, packets.TRUNCATED_TRANSPORT),
        (udp(), 37, packets.TRUNCATED_TRANSPORT),
        (ethernet(ipv4(tcp_header(), options=b"\x01" * 8)), 40, packets.TRUNCATED_IP),
        (
            ethernet(ipv6(bytes([UDP, 0]) + b"\x00" * 6 + udp_header(), next_header=60), 0x86DD),
            60,
            packets.TRUNCATED_IP,
        ),
    ],
)
def test_reasons_for_cut_captures(frame, kept, reason):
    """The capture lacks bytes that were on the wire."""
    assert look(frame[:kept], wire_len=len(frame)) == reason


def test_just_enough_was_captured():
    assert look(tcp()[:50], wire_len=54).window == 1024
    assert look(udp(payload=b"x")[:38], wire_len=43).dst_port == 53


def test_unknown_link_type():
    assert look(tcp(), 105) == packets.LINK_TYPE


@pytest.mark.parametrize("link_type", sorted(packets.LINK_TYPES))
def test_hostile_bytes_never_raise(link_type):
    """Every prefix of real headers, and random changes to them, give a packet or a known reason."""
    rng = np.random.default_rng(link_type)
    seeds = [tcp(payload=b"x" * 9), udp(payload=b"y" * 9), icmp(), ethernet(ipv4(tcp_header()), tags=[(0x8100, 5)])]
    seeds += [ethernet(ipv6(bytes([44, 0]) + b"\x00" * 6 + bytes(8) + udp_header(), next_header=0), 0x86DD)]
    seeds += [frame[14:] for frame in seeds]
    frames = [seed[:cut] for seed in seeds for cut in range(len(seed) + 1)]
    for _ in range(2_000):
        frame = bytearray(seeds[rng.integers(len(seeds))])
        for _ in range(rng.integers(1, 7)):
            frame[rng.integers(len(frame))] = rng.integers(256)
        frames.append(bytes(frame[: rng.integers(len(frame) + 1)]))
    for frame in frames:
        wire_len = len(frame) + int(rng.choice((0, 0, 40, 1500)))
        found = parse(frame, wire_len, link_type)
        if isinstance(found, str):
            assert found in packets.REASONS
        else:
            assert 0 <= found.payload_len <= found.ip_len <= wire_len
            assert len(found.src) == len(found.dst) in (4, 16)
