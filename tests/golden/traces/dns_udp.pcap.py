"""Name look-ups over UDP, one without an answer, an mDNS question, an NTP exchange, and a look-up after an idle gap."""

from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

HOST, RESOLVER = "10.20.0.5", "10.20.0.1"
UP = Ether(src="02:00:00:00:00:05", dst="02:00:00:00:00:01")
DOWN = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:05")


def ask(name, number, sport):
    return (
        UP
        / IP(src=HOST, dst=RESOLVER, id=number)
        / UDP(sport=sport, dport=53)
        / DNS(id=number, rd=1, qd=DNSQR(qname=name))
    )


def reply(name, number, dport, address):
    question, record = DNSQR(qname=name), DNSRR(rrname=name, ttl=60, rdata=address)
    dns = DNS(id=number, qr=1, rd=1, ra=1, qd=question, an=record)
    return DOWN / IP(src=RESOLVER, dst=HOST, id=number) / UDP(sport=53, dport=dport) / dns


MDNS = Ether(src="02:00:00:00:00:05", dst="01:00:5e:00:00:fb") / IP(src=HOST, dst="224.0.0.251", id=1, ttl=255)
NTP = Raw(b"\x23" + b"\x00" * 47)

FRAMES = [
    (0.0, ask("broker.example.org", 1, 40001)),
    (0.018, reply("broker.example.org", 1, 40001, "192.0.2.1")),
    (0.5, ask("gone.example.org", 2, 40002)),
    (1.5, ask("gone.example.org", 2, 40002)),
    (3.5, ask("gone.example.org", 2, 40002)),
    (4.0, MDNS / UDP(sport=5353, dport=5353) / DNS(id=0, rd=0, qd=DNSQR(qname="_mqtt._tcp.local", qtype="PTR"))),
    (4.2, UP / IP(src=HOST, dst="192.0.2.123", id=3) / UDP(sport=123, dport=123) / NTP),
    (4.23, DOWN / IP(src="192.0.2.123", dst=HOST, id=4) / UDP(sport=123, dport=123) / NTP),
    (30.0, ask("broker.example.org", 5, 40001)),
    (30.011, reply("broker.example.org", 5, 40001, "192.0.2.1")),
]
