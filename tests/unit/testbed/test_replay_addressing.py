"""Public addresses are mapped, everything else stays, and all checksums stay right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from testbed.addressing import AddressMap
from testbed.interlock import is_public

LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def mapped_by_scapy(frame: bytes, layer: type[Packet], source: str, target: str) -> bytes:
    """Return the frame with other addresses and all checksums computed anew."""
    packet = Ether(frame)
    packet[layer].src, packet[layer].dst = source, target
    for upper in (IP, TCP, UDP, ICMP):
        if upper in packet:
            del packet[upper].chksum
    if ICMPv6EchoRequest in packet:
        del packet[ICMPv6EchoRequest].cksum
    return bytes(packet)


@given(
    source=st.ip_addresses(v=4).map(str),
    target=st.ip_addresses(v=4).map(str),
    payload=st.binary(max_size=64),
    upper=st.sampled_from((TCP(sport=1, dport=2), UDP(sport=1, dport=9), ICMP())),
)
def test_ipv4_packets_get_right_checksums(source: str, target: str, payload: bytes, upper: Packet) -> None:
    frame = bytes(LINK / IP(src=source, dst=target) / upper / Raw(payload))
    out = AddressMap().apply(frame)
    ip = Ether(out)[IP]
    assert not is_public(ip.src)
    assert not is_public(ip.dst)
    assert out == mapped_by_scapy(frame, IP, ip.src, ip.dst)


@given(source=st.ip_addresses(v=6).map(str), payload=st.binary(max_size=32))
def test_ipv6_packets_get_right_checksums(source: str, payload: bytes) -> None:
    for upper in (TCP(sport=1, dport=2), ICMPv6EchoRequest()):
        frame = bytes(LINK / IPv6(src=source, dst="2001:4860::8") / upper / Raw(payload))
        out = AddressMap().apply(frame)
        ip = Ether(out)[IPv6]
        assert not is_public(ip.dst)
        assert out == mapped_by_scapy(frame, IPv6, ip.src, ip.dst)


def test_the_same_address_keeps_its_place_and_others_get_their_own() -> None:
    addresses = AddressMap()
    first, second = addresses.place(b"\x08\x08\x08\x08"), addresses.place(b"\x08\x08\x04\x04")
    assert first == bytes((198, 18, 0, 1))
    assert second == bytes((198, 18, 0, 2))
    assert addresses.place(b"\x08\x08\x08\x08") == first
    assert addresses.place(b"\x0a\0\0\1") == b"\x0a\0\0\1"


def test_a_udp_packet_without_checksum_keeps_none() -> None:
    frame = bytes(LINK / IP(src="10.0.0.1", dst="8.8.8.8") / UDP(chksum=0) / Raw(b"x"))
    assert Ether(AddressMap().apply(frame))[UDP].chksum == 0


def test_later_fragments_keep_their_payload() -> None:
    frame = bytes(LINK / IP(src="10.0.0.1", dst="8.8.8.8", frag=100, proto=6) / Raw(b"y" * 40))
    assert Ether(AddressMap().apply(frame))[IP].load == b"y" * 40


@pytest.mark.parametrize(
    "frame",
    [
        bytes(LINK / ARP(psrc="8.8.8.8", pdst="8.8.4.4")),
        bytes(LINK / IP(src="10.0.0.1", dst="10.0.0.2") / UDP()),
        b"",
        bytes(LINK / IP(dst="8.8.8.8"))[:30],
    ],
)
def test_packets_without_public_ip_addresses_or_cut_ones_stay(frame: bytes) -> None:
    assert AddressMap().apply(frame) == frame


def test_a_vlan_tag_is_looked_through() -> None:
    frame = bytes(LINK / Dot1Q(vlan=5) / IP(src="10.0.0.1", dst="8.8.8.8") / UDP())
    assert Ether(AddressMap().apply(frame))[IP].dst == "198.18.0.1"
