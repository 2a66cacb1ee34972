"""Raw packets of a capture file, with damage told instead of hidden."""

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from scapy.error import Scapy_Exception
from scapy.utils import RawPcapNgReader, RawPcapReader

from testbed.captures.errors import CaptureInputError

US_PER_S: Final = 1_000_000
KNOWN_LINKTYPES: Final = {
    0: "BSD null",
    1: "Ethernet",
    101: "raw IP",
    108: "BSD loopback",
    113: "Linux cooked",
    228: "raw IPv4",
    276: "Linux cooked v2",
}
_FILE_HEADER_BYTES: Final = 24
_RECORD_HEADER_BYTES: Final = 16
_NS_PER_US: Final = 1000
_GZIP_MAGIC: Final = b"\x1f\x8b"


class RawPacket(NamedTuple):
    """One packet as captured.

    Attributes
    ----------
    ts_us
        Packet time, microseconds since the epoch.
    wire_len
        Length on the wire, bytes; at least ``len(data)``.
    data
        Captured bytes from the link header on.
    linktype
        Number of the link type (LINKTYPE_*).
    """

    ts_us: int
    wire_len: int
    data: bytes
    linktype: int


@dataclass(frozen=True, slots=True)
class CaptureSummary:
    """Figures of one capture; times in microseconds since the epoch, zero for an empty capture."""

    packets: int
    size_bytes: int
    first_us: int
    last_us: int
    linktype: int


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a capture with Scapy; its many ways to fail become one line.

    Scapy gets an open stream, because it leaves files open that it does not accept.
    """
    try:
        with path.open("rb") as plain:
            zipped = plain.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        stream = gzip.GzipFile(path) if zipped else path.open("rb")
    except FileNotFoundError as error:
        raise CaptureInputError(f"{path}: no such file") from error
    except OSError as error:
        raise CaptureInputError(f"{path}: cannot read the capture ({error.strerror or error})") from error
    with stream:
        try:
            reader = RawPcapReader(stream)
        except (Scapy_Exception, OSError, EOFError, struct.error, zlib.error) as error:
            raise CaptureInputError(f"{path}: not a pcap or pcapng capture") from error
        try:
            yield reader
        except (Scapy_Exception, OSError, EOFError, struct.error, zlib.error) as error:
            raise CaptureInputError(f"{path}: the capture is damaged ({error or type(error).__name__})") from error


def read_packets(path: Path) -> Iterator[RawPacket]:
    """Yield the packets of a pcap or pcapng capture, also gzipped, in file order.

    Raises
    ------
    CaptureInputError
        The file is missing, no capture, of an unknown link type, or ends in the middle of a packet. Packets before
        the damage have been yielded by then.
    """
    with _opened(path) as reader:
        if isinstance(reader, RawPcapNgReader):
            yield from _pcapng_packets(reader, path)
        else:
            yield from _pcap_packets(reader, path)


def _pcap_packets(reader: Any, path: Path) -> Iterator[RawPacket]:
    linktype = _known(int(reader.linktype), path)
    divisor = _NS_PER_US if reader.nano else 1
    consumed_bytes = _FILE_HEADER_BYTES
    for data, meta in reader:
        if len(data) < min(meta.caplen, 0xFFFF):
            raise CaptureInputError(f"{path}: truncated in packet at byte {consumed_bytes}")
        consumed_bytes += _RECORD_HEADER_BYTES + meta.caplen
        yield RawPacket(meta.sec * US_PER_S + meta.usec // divisor, max(meta.wirelen, len(data)), data, linktype)
    if reader.f.tell() != consumed_bytes:
        raise CaptureInputError(f"{path}: truncated in packet header at byte {consumed_bytes}")


def _pcapng_packets(reader: Any, path: Path) -> Iterator[RawPacket]:
    blocks = _complete_blocks(path)
    for data, meta in reader:
        stamp = (meta.tshigh << 32) + meta.tslow
        ts_us = stamp * US_PER_S // int(meta.tsresol)
        yield RawPacket(ts_us, max(meta.wirelen, len(data)), data, _known(int(meta.linktype), path))
    if not blocks:
        raise CaptureInputError(f"{path}: truncated in its last block")


def _complete_blocks(path: Path) -> bool:
    """Return whether the blocks of an uncompressed pcapng file end where the file ends."""
    with path.open("rb") as stream:
        head = stream.read(12)
        if head[:2] == _GZIP_MAGIC:
            return True
        order = "<" if head[8:12] == b"\x4d\x3c\x2b\x1a" else ">"
        size_bytes, position = path.stat().st_size, 0
        while position + 12 <= size_bytes:
            stream.seek(position + 4)
            (length,) = struct.unpack(f"{order}I", stream.read(4))
            if length < 12:
                return False
            position += length
        return position == size_bytes


def _known(linktype: int, path: Path) -> int:
    if linktype not in KNOWN_LINKTYPES:
        names = ", ".join(f"{number} ({name})" for number, name in KNOWN_LINKTYPES.items())
        raise CaptureInputError(f"{path}: link type {linktype} is not known; known are {names}")
    return linktype


def summarise(path: Path) -> CaptureSummary:
    """Read a capture once and return its figures.

    Raises
    ------
    CaptureInputError
        As in :func:`read_packets`.
    """
    packets, first_us, last_us, linktype = 0, 0, 0, 1
    for packet in read_packets(path):
        if not packets:
            first_us, last_us, linktype = packet.ts_us, packet.ts_us, packet.linktype
        packets += 1
        last_us = max(last_us, packet.ts_us)
    return CaptureSummary(packets, path.stat().st_size, first_us, last_us, linktype)
