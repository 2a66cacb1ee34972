"""Header parsing: one captured frame to the few facts the meter needs, or to the reason why it is not metered.

Rules, where the standards leave room:

- Nothing here raises on hostile bytes. A frame that cannot be metered is answered with a reason out of ``REASONS``.
- Lengths come from the IP header and are capped by the length on the wire, so neither Ethernet padding nor a forged
  total length shows. A total length of 0 (segmentation offload) means: all that was on the wire.
- The first fragment of a datagram carries the ports. Later ones have none: they count for the flow between the same
  addresses with ports 0, so a flood of fragments is visible.
- TCP and UDP have ports; ICMP type and code are no ports. A tunnel is metered by its outer header.
- Of a transport header the first 16 bytes must have been captured for TCP, 4 for UDP. Of ICMP, 8 bytes count
  as header.
"""

import struct
from typing import NamedTuple

ETHERNET = 1
LINUX_SLL = 113
LINUX_SLL2 = 276
BSD_NULL = 0
BSD_LOOP = 108
RAW_IP = (12, 14, 101, 228, 229)
LINK_TYPES = frozenset((ETHERNET, LINUX_SLL, LINUX_SLL2, BSD_NULL, BSD_LOOP, *RAW_IP))
"""LINKTYPE numbers that are understood: Ethernet, Linux cooked v1 and v2, BSD loopback, raw IP."""

ARP = "arp"
NON_IP = "non-ip"
LINK_TYPE = "link-type"
TRUNCATED_LINK = "truncated-link"
TRUNCATED_IP = "truncated-ip"
MALFORMED_IP = "malformed-ip"
TRUNCATED_TRANSPORT = "truncated-transport"
MALFORMED_TRANSPORT = "malformed-transport"
REASONS = (
    ARP,
    NON_IP,
    LINK_TYPE,
    TRUNCATED_LINK,
    TRUNCATED_IP,
    MALFORMED_IP,
    TRUNCATED_TRANSPORT,
    MALFORMED_TRANSPORT,
)
"""Why a frame is not metered; ``truncated``: the capture lacks bytes, ``malformed``: the packet contradicts itself."""

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
FIN, SYN, RST, PSH, ACK, URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

_ETHERTYPE_IPV4, _ETHERTYPE_IPV6, _ETHERTYPE_ARP = 0x0800, 0x86DD, 0x0806
_VLAN_ETHERTYPES = frozenset((0x8100, 0x88A8, 0x9100))
_MAX_VLAN_TAGS = 2
_ETHERTYPE_OF_VERSION = {4: _ETHERTYPE_IPV4, 6: _ETHERTYPE_IPV6}
_ETHERTYPE_OF_FAMILY = {2: _ETHERTYPE_IPV4} | dict.fromkeys((10, 24, 28, 30), _ETHERTYPE_IPV6)

_FRAGMENT_HEADER = 44
_EXTENSION_LENGTH = dict.fromkeys((0, 43, 60, 135, 139, 140), (8, 1)) | {51: (4, 2), _FRAGMENT_HEADER: (0, 8)}
"""Extension headers: (unit, more), the length is ``(length field + more) * unit`` bytes, or ``more`` without a unit."""
_MAX_EXTENSION_HEADERS = 8

_IPV4 = struct.Struct("!BxHxxHxB")
_IPV6 = struct.Struct("!4xHB")
_TWO_U16 = struct.Struct("!HH")
_TCP = struct.Struct("!HHI4xBBH")


class Packet(NamedTuple):
    """What the meter needs of one IP packet.

    Attributes
    ----------
    src, dst
        Addresses, 4 or 16 bytes.
    src_port, dst_port
        Ports; 0 for all but TCP and UDP and for later fragments.
    proto
        IP protocol number behind all extension headers.
    vlan
        VLAN tags: ``outer << 12 | inner``, the id itself with one tag, 0 without.
    ip_len
        IP total length, bytes.
    payload_len
        Transport payload, bytes.
    payload_at
        Where in the frame the payload begins; nothing of it may have been captured.
    tcp_flags
        Low six bits of the TCP flags; 0 without a TCP header.
    window, seq
        Window field and sequence number; 0 without a TCP header.
    has_tcp
        Whether the packet carries a TCP header.
    """

    src: bytes
    dst: bytes
    src_port: int
    dst_port: int
    proto: int
    vlan: int
    ip_len: int
    payload_len: int
    payload_at: int
    tcp_flags: int
    window: int
    seq: int
    has_tcp: bool


def parse(frame: bytes, wire_len: int, link_type: int) -> Packet | str:
    """Parse one frame.

    Parameters
    ----------
    frame
        Captured bytes from the link layer on; may be cut anywhere.
    wire_len
        Length on the wire in bytes, at least ``len(frame)``.
    link_type
        LINKTYPE number.

    Returns
    -------
    Packet or str
        The packet, or one of ``REASONS``.
    """
    header = _link_header(frame, link_type)
    if isinstance(header, str):
        return header
    start, ethertype, vlan = header
    if ethertype in _VLAN_ETHERTYPES:
        header = _vlan_header(frame, start)
        if isinstance(header, str):
            return header
        start, ethertype, vlan = header
    if ethertype == _ETHERTYPE_IPV4:
        return _ipv4(frame, start, wire_len - start, vlan)
    if ethertype == _ETHERTYPE_IPV6:
        return _ipv6(frame, start, wire_len - start, vlan)
    return ARP if ethertype == _ETHERTYPE_ARP else NON_IP


def _link_header(frame: bytes, link_type: int) -> tuple[int, int, int] | str:
    """Return start of the network header, EtherType and no VLAN; or a reason."""
    if link_type == ETHERNET:
        return (14, frame[12] << 8 | frame[13], 0) if len(frame) >= 14 else TRUNCATED_LINK
    if link_type == LINUX_SLL:
        return (16, frame[14] << 8 | frame[15], 0) if len(frame) >= 16 else TRUNCATED_LINK
    if link_type == LINUX_SLL2:
        return (20, frame[0] << 8 | frame[1], 0) if len(frame) >= 20 else TRUNCATED_LINK
    if link_type in RAW_IP:
        return (0, _ETHERTYPE_OF_VERSION.get(frame[0] >> 4, 0), 0) if frame else TRUNCATED_LINK
    if link_type in (BSD_NULL, BSD_LOOP):
        if len(frame) < 4:
            return TRUNCATED_LINK
        # BSD_NULL is in the byte order of the capturing host, which nobody recorded; families are below 256.
        return 4, _ETHERTYPE_OF_FAMILY.get(frame[3] or frame[0], 0), 0
    return LINK_TYPE


def _vlan_header(frame: bytes, start: int) -> tuple[int, int, int] | str:
    """Return start of the network header, EtherType and VLAN behind the tags at ``start``; or a reason."""
    vlan = 0
    for _ in range(_MAX_VLAN_TAGS):
        if len(frame) < start + 4:
            return TRUNCATED_LINK
        tag, ethertype = _TWO_U16.unpack_from(frame, start)
        start += 4
        vlan = vlan << 12 | (tag & 0x0FFF)
        if ethertype not in _VLAN_ETHERTYPES:
            return start, ethertype, vlan
    return NON_IP


def _ipv4(frame: bytes, start: int, on_wire: int, vlan: int) -> Packet | str:
    if len(frame) < start + 20:
        return TRUNCATED_IP
    first, total, fragment, proto = _IPV4.unpack_from(frame, start)
    header = (first & 0x0F) * 4
    if first >> 4 != 4 or header < 20:
        return MALFORMED_IP
    total = min(total, on_wire) if total else on_wire
    if total < header:
        return MALFORMED_IP
    if len(frame) < start + header:
        return TRUNCATED_IP
    src, dst = frame[start + 12 : start + 16], frame[start + 16 : start + 20]
    if fragment & 0x1FFF:
        payload = total - header
        return Packet(src, dst, 0, 0, proto, vlan, total, payload, start + header, 0, 0, 0, has_tcp=False)
    return _transport(frame, start + header, total - header, src=src, dst=dst, proto=proto, vlan=vlan, ip_len=total)


def _ipv6(frame: bytes, start: int, on_wire: int, vlan: int) -> Packet | str:
    if len(frame) < start + 40:
        return TRUNCATED_IP
    if frame[start] >> 4 != 6:
        return MALFORMED_IP
    payload, proto = _IPV6.unpack_from(frame, start)
    total = min(40 + payload, on_wire) if payload else on_wire
    src, dst = frame[start + 8 : start + 24], frame[start + 24 : start + 40]
    at, rest = start + 40, total - 40
    for _ in range(_MAX_EXTENSION_HEADERS):
        if proto not in _EXTENSION_LENGTH:
            return _transport(frame, at, rest, src=src, dst=dst, proto=proto, vlan=vlan, ip_len=total)
        if rest < 8:
            return MALFORMED_IP
        if len(frame) < at + 8:
            return TRUNCATED_IP
        header, proto = proto, frame[at]
        if header == _FRAGMENT_HEADER and (frame[at + 2] or frame[at + 3] >> 3):
            return Packet(src, dst, 0, 0, proto, vlan, total, rest - 8, at + 8, 0, 0, 0, has_tcp=False)
        unit, more = _EXTENSION_LENGTH[header]
        length = (frame[at + 1] + more) * unit if unit else more
        if rest < length:
            return MALFORMED_IP
        at, rest = at + length, rest - length
    return MALFORMED_IP


def _transport(
    frame: bytes, at: int, length: int, *, src: bytes, dst: bytes, proto: int, vlan: int, ip_len: int
) -> Packet | str:
    """Parse the transport header at ``at``; it and the payload are ``length`` bytes long on the wire."""
    captured = min(len(frame) - at, length)
    if proto == TCP:
        if length < 20:
            return MALFORMED_TRANSPORT
        if captured < 16:
            return TRUNCATED_TRANSPORT
        src_port, dst_port, seq, offset, flags, window = _TCP.unpack_from(frame, at)
        payload = length - (offset >> 4) * 4
        if offset < 0x50 or payload < 0:
            return MALFORMED_TRANSPORT
        at += length - payload
        return Packet(
            src, dst, src_port, dst_port, proto, vlan, ip_len, payload, at, flags & 0x3F, window, seq, has_tcp=True
        )
    src_port = dst_port = 0
    payload = length
    if proto == UDP:
        if length < 8:
            return MALFORMED_TRANSPORT
        if captured < 4:
            return TRUNCATED_TRANSPORT
        src_port, dst_port = _TWO_U16.unpack_from(frame, at)
        payload = length - 8
    elif proto in (ICMP, ICMPV6):
        payload = max(0, length - 8)
    at += length - payload
    return Packet(src, dst, src_port, dst_port, proto, vlan, ip_len, payload, at, 0, 0, 0, has_tcp=False)
