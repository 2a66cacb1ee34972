"""From any link header to the IP packet, and from an IP packet back to an Ethernet frame."""

import struct
from ipaddress import ip_address
from typing import Final

ETHERNET: Final = 1
RAW_IP: Final = 101
_RAW_IP_KINDS: Final = (RAW_IP, 228)
_VLAN_TYPES: Final = (0x8100, 0x88A8, 0x9100)
_IP_TYPES: Final = {4: b"\x08\x00", 6: b"\x86\xdd"}
_IPV4_HEADER_BYTES: Final = 20
_IPV6_HEADER_BYTES: Final = 40
_SLL_BYTES: Final = 16
_SLL2_BYTES: Final = 20


def ip_packet(data: bytes, linktype: int) -> bytes | None:
    """Return the IP packet inside a captured frame without link header and padding; None when there is none.

    Parameters
    ----------
    data
        Captured bytes from the link header on.
    linktype
        Number of the link type.
    """
    offset = network_offset(data, linktype)
    if offset is None or len(data) <= offset:
        return None
    version = data[offset] >> 4
    if version == 4 and len(data) >= offset + _IPV4_HEADER_BYTES:
        (length,) = struct.unpack_from("!H", data, offset + 2)
        # A total length of zero comes from segmentation in the network card: take what was captured.
        return data[offset : offset + length] if length else data[offset:]
    if version == 6 and len(data) >= offset + _IPV6_HEADER_BYTES:
        (length,) = struct.unpack_from("!H", data, offset + 4)
        return data[offset : offset + _IPV6_HEADER_BYTES + length] if length else data[offset:]
    return None


def network_offset(data: bytes, linktype: int) -> int | None:
    """Return where the network header begins; None for a frame that carries no IP.

    Parameters
    ----------
    data
        Captured bytes from the link header on.
    linktype
        Number of the link type.
    """
    if linktype in _RAW_IP_KINDS:
        return 0
    if linktype in {0, 108}:
        return 4
    if linktype == 113:
        return _SLL_BYTES if data[14:16] in _IP_TYPES.values() else None
    if linktype == 276:
        return _SLL2_BYTES if data[0:2] in _IP_TYPES.values() else None
    offset = 12
    while int.from_bytes(data[offset : offset + 2]) in _VLAN_TYPES:
        offset += 4
    return offset + 2 if data[offset : offset + 2] in _IP_TYPES.values() else None


def endpoints(packet: bytes) -> tuple[str, str]:
    """Return source and destination address of an IP packet made by :func:`ip_packet`."""
    if packet[0] >> 4 == 4:
        return str(ip_address(packet[12:16])), str(ip_address(packet[16:20]))
    return str(ip_address(packet[8:24])), str(ip_address(packet[24:40]))


def ethernet_frame(packet: bytes, source_mac: bytes, target_mac: bytes) -> bytes:
    """Return an IP packet as an Ethernet frame."""
    return target_mac + source_mac + _IP_TYPES[packet[0] >> 4] + packet
