"""Frames for the tests, built byte by byte with ``struct``: independent of the parser and of Scapy."""

import struct
from ipaddress import ip_address

from device_agent.flows.packets import ACK, ETHERNET, TCP, UDP
from device_agent.flows.records import PacketBatch

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
A6, B6 = "2001:db8::1", "2001:db8::2"
EPOCH_US = 1_700_000_000_000_000
S = 1_000_000


def tcp_header(*, sport=40000, dport=80, flags=ACK, seq=1, window=1024, options=b"", offset=None):
    offset = 5 + len(options) // 4 if offset is None else offset
    return struct.pack("!HHIIBBHHH", sport, dport, seq, 0, offset << 4, flags, window, 0, 0) + options


def udp_header(*, sport=40000, dport=53, payload=b"", length=None):
    return struct.pack("!HHHH", sport, dport, 8 + len(payload) if length is None else length, 0) + payload


def ipv4(body, src=A, dst=B, *, proto=TCP, options=b"", total=None, fragment=0, version=4, ihl=None):
    ihl = 5 + len(options) // 4 if ihl is None else ihl
    total = 20 + len(options) + len(body) if total is None else total
    header = struct.pack(
        "!BBHHHBBH4s4s",
        version << 4 | ihl,
        0,
        total,
        7,
        fragment,
        64,
        proto,
        0,
        ip_address(src).packed,
        ip_address(dst).packed,
    )
    return header + options + body


def ipv6(body, *, src=A6, dst=B6, next_header=TCP, length=None, version=6):
    return (
        struct.pack("!IHBB", version << 28, len(body) if length is None else length, next_header, 64)
        + ip_address(src).packed
        + ip_address(dst).packed
        + body
    )


def ethernet(body, ethertype=0x0800, tags=()):
    """``tags``: pairs of tag EtherType and VLAN id, the outer first."""
    head = b"\x02\x00\x00\x00\x00\x02" + b"\x02\x00\x00\x00\x00\x01"
    return head + b"".join(struct.pack("!HH", t, v) for t, v in tags) + struct.pack("!H", ethertype) + body


def tcp(*, src=A, dst=B, sport=40000, dport=80, flags=ACK, seq=1, window=1024, payload=b""):
    return ethernet(ipv4(tcp_header(sport=sport, dport=dport, flags=flags, seq=seq, window=window) + payload, src, dst))


def udp(*, src=A, dst=B, sport=40000, dport=53, payload=b""):
    return ethernet(ipv4(udp_header(sport=sport, dport=dport, payload=payload), src, dst, proto=UDP))


def icmp(*, src=A, dst=B, kind=8, payload=b"x" * 8):
    return ethernet(ipv4(struct.pack("!BBHHH", kind, 0, 0, 1, 1) + payload, src, dst, proto=1))


def arp():
    return ethernet(b"\x00" * 28, ethertype=0x0806)


def batch(timed, link_type=ETHERNET, start_us=EPOCH_US):
    """Pack ``[(seconds, frame), ...]`` into a batch that begins at ``start_us``."""
    return PacketBatch.from_frames(
        [frame for _, frame in timed],
        [start_us + round(seconds * S) for seconds, _ in timed],
        link_type=link_type,
    )
