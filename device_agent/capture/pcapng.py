"""Packet blocks of pcapng. Scapy walks over sections and blocks; what a packet is and when it came is read here.

Scapy's own reading of them keeps the interfaces of earlier sections, knows no ``if_tsoffset``, gives nothing of a
simple packet block without a snap length, and ends a file at a damaged option that nobody asked for.
"""

import struct
from typing import Any, NamedTuple

import device_agent.capture.scapy_setup  # noqa: F401  # isort: skip - before Scapy's own modules

from scapy.error import Scapy_Exception
from scapy.utils import RawPcapNgReader

_INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 1, 2, 3, 6
_RESOLUTION, _OFFSET = 9, 14
"""Options of an interface."""
_LATEST_US = 1 << 62


class Interface(NamedTuple):
    """An interface of a section.

    Attributes
    ----------
    link_type
        Link type of its packets.
    snap_bytes
        Captured bytes at most; 0 for no limit.
    ticks_per_s
        Units of its timestamps, >= 1.
    offset_s
        What to add to its timestamps, seconds.
    """

    link_type: int
    snap_bytes: int
    ticks_per_s: int
    offset_s: int


class Block(NamedTuple):
    """A packet. ``time_us`` is None if the block has no time."""

    frame: bytes
    time_us: int | None
    wire_len: int
    link_type: int


class PcapNgReader(RawPcapNgReader):  # type: ignore[misc]  # Scapy has no types
    """Scapy's reader of blocks with our own reading of packets.

    ``_read_block`` returns a ``Block``, or None for a block that is no packet or whose packet has no interface.

    Attributes
    ----------
    undescribed
        Packets whose interface the section does not describe.
    """

    def __init__(self, filename: Any, fdesc: Any = None, magic: Any = None) -> None:
        self.undescribed = 0
        super().__init__(filename, fdesc, magic)
        self.blocktypes = {
            _INTERFACE: self._note_interface,
            _OLD_PACKET: self._old_packet,
            _SIMPLE_PACKET: self._simple_packet,
            _PACKET: self._packet,
        }

    def _read_block_shb(self) -> None:
        """Begin a section: its interfaces are numbered anew."""
        super()._read_block_shb()
        self.interfaces: list[Interface] = []

    def _note_interface(self, body: bytes, _: int) -> None:
        link_type, snap_bytes = self._unpack("HxxI", body)
        ticks_per_s, offset_s = 1_000_000, 0
        for code, value in self._read_options(body[8:]).items():
            if code == _RESOLUTION and len(value) == 1:
                ticks_per_s = (2 if value[0] & 0x80 else 10) ** (value[0] & 0x7F)
            elif code == _OFFSET and len(value) == 8:
                (offset_s,) = self._unpack("q", value)
        self.interfaces.append(Interface(link_type, snap_bytes, ticks_per_s, offset_s))

    def _packet(self, body: bytes, _: int) -> Block | None:
        number, high, low, captured, wire_len = self._unpack("5I", body)
        return self._timed(number, high << 32 | low, body[20:], captured, wire_len)

    def _old_packet(self, body: bytes, _: int) -> Block | None:
        number, _drops, high, low, captured, wire_len = self._unpack("HH4I", body)
        return self._timed(number, high << 32 | low, body[20:], captured, wire_len)

    def _timed(self, number: int, ticks: int, data: bytes, captured: int, wire_len: int) -> Block | None:
        if captured > len(data):
            raise Scapy_Exception("a packet is longer than its block")
        interface = self._interface(number)
        if interface is None:
            return None
        time_us = ticks * 1_000_000 // interface.ticks_per_s + interface.offset_s * 1_000_000
        return Block(data[:captured], min(max(time_us, 0), _LATEST_US), wire_len, interface.link_type)

    def _simple_packet(self, body: bytes, _: int) -> Block | None:
        """Read a packet of the section's first interface; how much of it was captured is nowhere written."""
        (wire_len,) = self._unpack("I", body)
        interface = self._interface(0)
        if interface is None:
            return None
        captured = min(wire_len, interface.snap_bytes or wire_len)
        if captured > len(body) - 4:
            raise Scapy_Exception("a packet is longer than its block")
        return Block(body[4 : 4 + captured], None, wire_len, interface.link_type)

    def _interface(self, number: int) -> Interface | None:
        if number < len(self.interfaces):
            return self.interfaces[number]
        self.undescribed += 1
        return None

    def _unpack(self, form: str, data: bytes) -> tuple[int, ...]:
        return struct.unpack_from(self.endian + form, data)
