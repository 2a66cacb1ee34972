"""Frames packed by hand are the frames Scapy would build."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from testbed.traffic.wire import (
    ACK,
    PSH,
    SYN,
    Host,
    TcpHeader,
    arp_frame,
    checksum,
    icmp_echo_frame,
    tcp_frame,
    udp_frame,
)

A = Host("10.20.0.10", b"\x02\x00\x00\x00\x00\x01")
B = Host("198.51.100.7", b"\x02\x00\x00\x00\x00\x02", ttl=52, outside=True)


SYN_OPTIONS = [("MSS", 1460), ("NOP", None), ("WScale", 7), ("SAckOK", b""), ("EOL", None)]


def by_scapy(source: Host, target: Host, ident: int, upper: Packet) -> bytes:
    """Return the frame as Scapy builds it, padded to the Ethernet minimum."""
    ip = IP(src=source.address, dst=target.address, id=ident, ttl=source.ttl, flags="DF")
    return bytes(Ether(src=source.mac, dst=target.mac) / ip / upper).ljust(60, b"\0")


@given(payload=st.binary(max_size=1460), seq=st.integers(0, 2**32 - 1), flags=st.sampled_from((SYN, ACK, PSH | ACK)))
def test_tcp_frame_equals_scapys(payload: bytes, seq: int, flags: int) -> None:
    header = TcpHeader(sport=40000, dport=1883, seq=seq, ack=7, flags=flags, window=502)
    options = SYN_OPTIONS if flags == SYN else []
    segment = TCP(sport=40000, dport=1883, seq=seq, ack=7, flags=flags, window=502, options=options)
    assert tcp_frame(A, B, header, 4711, payload) == by_scapy(A, B, 4711, segment / Raw(payload))


@given(payload=st.binary(max_size=1400))
def test_udp_frame_equals_scapys(payload: bytes) -> None:
    expected = by_scapy(B, A, 1, UDP(sport=5000, dport=40001) / Raw(payload))
    assert udp_frame(B, A, (5000, 40001), 1, payload) == expected


def test_a_udp_checksum_of_zero_is_sent_as_all_ones() -> None:
    complement = Ether(udp_frame(A, B, (1, 2), 1, b"\0\0"))[UDP].chksum
    assert Ether(udp_frame(A, B, (1, 2), 1, complement.to_bytes(2)))[UDP].chksum == 0xFFFF


@pytest.mark.parametrize("reply", [False, True])
def test_icmp_echo_frame_equals_scapys(reply: bool) -> None:
    expected = by_scapy(A, B, 9, ICMP(type=0 if reply else 8, id=1, seq=3) / Raw(b"x" * 40))
    assert icmp_echo_frame(A, B, 3, 9, b"x" * 40, reply=reply) == expected


def test_arp_request_is_broadcast_and_the_reply_is_not() -> None:
    request, reply = Ether(arp_frame(A, B, reply=False)), Ether(arp_frame(B, A, reply=True))
    assert (request.dst, request[ARP].op, request[ARP].pdst) == ("ff:ff:ff:ff:ff:ff", 1, B.address)
    assert (reply.dst, reply[ARP].op, reply[ARP].hwsrc) == ("02:00:00:00:00:01", 2, "02:00:00:00:00:02")


@given(st.binary(min_size=1, max_size=200))
def test_data_with_its_checksum_sums_to_zero(data: bytes) -> None:
    padded = data + b"\0" * (len(data) & 1)
    assert checksum(padded + checksum(padded).to_bytes(2)) in {0, 0xFFFF}
    assert sum(int.from_bytes(padded[n : n + 2]) for n in range(0, len(padded), 2)) % 0xFFFF == (
        (0xFFFF - checksum(data)) % 0xFFFF
    )
