"""IPv4 and IPv6 fragments, extension headers, one and two VLAN tags, ping, and frames that are not metered."""

from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
)
from scapy.layers.l2 import ARP, LLC, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Raw

MACS = {"src": "02:00:00:00:00:05", "dst": "02:00:00:00:00:01"}
A4, B4 = "10.20.0.5", "10.20.0.1"
A6, B6 = "2001:db8::5", "2001:db8::1"

big = IP(src=A4, dst=B4, id=77) / UDP(sport=5000, dport=6000, chksum=0) / Raw(b"d" * 2992)
first6 = IPv6ExtHdrFragment(nh=17, offset=0, m=1, id=9) / Raw(
    bytes(UDP(sport=5000, dport=6000, len=1016, chksum=1)) + b"e" * 992
)
last6 = IPv6ExtHdrFragment(nh=17, offset=125, m=0, id=9) / Raw(b"e" * 16)
options = IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\x00" * 4)]) / IPv6ExtHdrDestOpt(
    options=[PadN(optdata=b"\x00" * 4)]
)

FRAMES = [(0.001 * i, Ether(**MACS) / piece) for i, piece in enumerate(fragment(big, fragsize=1480))]
FRAMES += [
    (0.1, Ether(**MACS) / IPv6(src=A6, dst=B6) / first6),
    (0.101, Ether(**MACS) / IPv6(src=A6, dst=B6) / last6),
    (0.2, Ether(**MACS) / IPv6(src=A6, dst=B6) / options / TCP(sport=1000, dport=8883, flags="S", seq=1, window=28800)),
    (
        0.21,
        Ether(src=MACS["dst"], dst=MACS["src"])
        / IPv6(src=B6, dst=A6)
        / TCP(sport=8883, dport=1000, flags="SA", seq=5, ack=2, window=28560),
    ),
    (
        0.3,
        Ether(**MACS)
        / Dot1Q(vlan=20)
        / IP(src=A4, dst=B4, id=3)
        / UDP(sport=7000, dport=5683, chksum=0)
        / Raw(b"coap"),
    ),
    (
        0.31,
        Ether(src=MACS["dst"], dst=MACS["src"])
        / Dot1Q(vlan=20)
        / IP(src=B4, dst=A4, id=4)
        / UDP(sport=5683, dport=7000, chksum=0)
        / Raw(b"ack"),
    ),
    (
        0.32,
        Ether(**MACS)
        / Dot1Q(vlan=30)
        / IP(src=A4, dst=B4, id=3)
        / UDP(sport=7000, dport=5683, chksum=0)
        / Raw(b"coap"),
    ),
    (
        0.33,
        Ether(**MACS)
        / Dot1AD(vlan=100)
        / Dot1Q(vlan=20)
        / IP(src=A4, dst=B4, id=3)
        / UDP(sport=7000, dport=5683, chksum=0)
        / Raw(b"coap"),
    ),
    (0.4, Ether(**MACS) / IP(src=A4, dst=B4, id=5, options=b"\x94\x04\x00\x00") / ICMP(id=1, seq=1) / Raw(b"p" * 56)),
    (
        0.41,
        Ether(src=MACS["dst"], dst=MACS["src"]) / IP(src=B4, dst=A4, id=6) / ICMP(type=0, id=1, seq=1) / Raw(b"p" * 56),
    ),
    (0.5, Ether(**MACS) / IPv6(src=A6, dst=B6) / ICMPv6EchoRequest(id=1, seq=1, data=b"p" * 16)),
    (
        0.51,
        Ether(src=MACS["dst"], dst=MACS["src"]) / IPv6(src=B6, dst=A6) / ICMPv6EchoReply(id=1, seq=1, data=b"p" * 16),
    ),
    (0.52, Ether(**MACS) / IPv6(src=A6, dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=B6)),
    (0.6, Ether(**MACS) / ARP(psrc=A4, pdst=B4, hwsrc=MACS["src"])),
    (0.61, Dot3(dst="01:80:c2:00:00:00", src=MACS["src"]) / LLC(dsap=0x42, ssap=0x42, ctrl=3) / Raw(b"\x00" * 35)),
    (0.62, Ether(**MACS) / IP(src=A4, dst=B4, id=7, proto=17, len=24) / Raw(b"shrt")),
    (0.63, Ether(**MACS) / IP(src=A4, dst=B4, id=8, proto=47) / Raw(b"\x00" * 12)),
]
