"""Map public addresses of captured packets to ranges that lead nowhere, with all checksums set right."""

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from testbed.captures.link import ETHERNET, network_offset
from testbed.interlock import is_public

_V4_BASE: Final = int(IPv4Address("198.18.0.0"))
_V4_SIZE: Final = 1 << 17
_V6_BASE: Final = int(IPv6Address("2001:db8:4b57::"))
_TCP: Final = 6
_UDP: Final = 17
_ICMPV6: Final = 58
_CHECKSUM_AT: Final = {_TCP: 16, _UDP: 6, _ICMPV6: 2}
_FRAGMENT_OFFSET: Final = 0x1FFF
_ONES: Final = 0xFFFF


class AddressMap:
    """Gives every public address a place in 198.18.0.0/15 (benchmark range) or 2001:db8:4b57::/48 (documentation).

    The same address always gets the same place, in the order of first sight; other addresses stay.
    """

    def __init__(self) -> None:
        self._places: dict[bytes, bytes] = {}
        self._counts = {4: 0, 16: 0}

    def place(self, packed: bytes) -> bytes:
        """Return the address to use instead, 4 or 16 bytes as given."""
        known = self._places.get(packed)
        if known is None:
            known = self._new_place(packed) if is_public(_text(packed)) else packed
            self._places[packed] = known
        return known

    def _new_place(self, packed: bytes) -> bytes:
        count = self._counts[len(packed)] = self._counts[len(packed)] + 1
        if len(packed) == 4:
            return (_V4_BASE + count % _V4_SIZE).to_bytes(4)
        return (_V6_BASE + count).to_bytes(16)

    def apply(self, data: bytes, linktype: int = ETHERNET) -> bytes:
        """Return a captured packet with its public addresses mapped; a packet without IP as it is.

        Parameters
        ----------
        data
            Captured bytes from the link header on.
        linktype
            Number of the link type.
        """
        start = network_offset(data, linktype)
        if start is None or len(data) < start + 20:
            return data
        if data[start] >> 4 == 4:
            return self._apply_v4(bytearray(data), start)
        if data[start] >> 4 == 6 and len(data) >= start + 40:
            return self._apply_v6(bytearray(data), start)
        return data

    def _apply_v4(self, data: bytearray, start: int) -> bytes:
        old = bytes(data[start + 12 : start + 20])
        new = self.place(old[:4]) + self.place(old[4:])
        if new != old:
            data[start + 12 : start + 20] = new
            _fix(data, start + 10, old, new)
            (fragment,) = struct.unpack_from("!H", data, start + 6)
            if not fragment & _FRAGMENT_OFFSET:
                _fix_transport(data, data[start + 9], start + (data[start] & 15) * 4, old, new)
        return bytes(data)

    def _apply_v6(self, data: bytearray, start: int) -> bytes:
        old = bytes(data[start + 8 : start + 40])
        new = self.place(old[:16]) + self.place(old[16:])
        if new != old:
            data[start + 8 : start + 40] = new
            _fix_transport(data, data[start + 6], start + 40, old, new)
        return bytes(data)


def _text(packed: bytes) -> str:
    return str(IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed))


def _fix_transport(data: bytearray, proto: int, start: int, old: bytes, new: bytes) -> None:
    """Update the transport checksum, which covers the addresses; a UDP checksum of zero means there is none."""
    at = _CHECKSUM_AT.get(proto)
    if at is None or len(data) < start + at + 2:
        return
    if proto == _UDP and data[start + at : start + at + 2] == b"\0\0":
        return
    _fix(data, start + at, old, new)
    if proto == _UDP and data[start + at : start + at + 2] == b"\0\0":
        data[start + at : start + at + 2] = b"\xff\xff"


def _fix(data: bytearray, at: int, old: bytes, new: bytes) -> None:
    """Update a checksum for bytes that changed (RFC 1624, equation 3)."""
    (checksum,) = struct.unpack_from("!H", data, at)
    total = (_ONES - checksum) + _ONES - int.from_bytes(old) % _ONES + int.from_bytes(new) % _ONES
    struct.pack_into("!H", data, at, _ONES - ((total % _ONES) or _ONES))
