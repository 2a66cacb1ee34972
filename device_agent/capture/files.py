"""Capture files and streams as a source: pcap and pcapng, walked by Scapy's raw readers without any dissection."""

import struct
import time
from contextlib import suppress
from typing import Any, NamedTuple

import device_agent.capture.scapy_setup  # noqa: F401  # isort: skip - before Scapy's own modules

from scapy.data import MTU
from scapy.error import Scapy_Exception
from scapy.utils import RawPcapReader

from device_agent.capture.errors import CaptureInputError
from device_agent.capture.pcapng import Block, PcapNgReader
from device_agent.capture.source import CaptureSettings
from device_agent.capture.streams import ByteStream, StarvedError
from device_agent.flows.packets import LINK_TYPES
from device_agent.flows.records import PacketBatch

_PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
_PCAP_MAGICS = frozenset((b"\xa1\xb2\xc3\xd4", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x4d\x3c\xb2\xa1"))
_MAX_CAPTURED_BYTES = 262_144


class _Record(NamedTuple):
    frame: bytes
    time_us: int
    wire_len: int
    link_type: int


class CaptureFile:
    """A capture from a file, a FIFO or standard input.

    Packets are handed out as they come, also while the writer of a FIFO pauses. A capture that ends inside a record
    gives all whole packets first and then raises once; after that ``read`` returns None.

    Parameters
    ----------
    name
        For error texts.
    descriptor
        Open file descriptor; the source closes it.
    settings
        Only ``snap_bytes`` counts here.
    waits
        Whether the descriptor is a FIFO that may have no writer yet.
    """

    live = False

    def __init__(self, name: str, descriptor: int, settings: CaptureSettings, *, waits: bool = False) -> None:
        self._name = name
        self._stream = ByteStream(name, descriptor, waits=waits)
        self._snap_bytes = settings.snap_bytes
        self._reader: Any = None
        self._ng = False
        self._pending: _Record | None = None
        self._failure: CaptureInputError | None = None
        self._ended = False
        self._last_us = 0
        self._packets = 0
        self._link_type_packets = 0
        self._strange_link_type: int | None = None
        self._truncated = 0

    def read(self, max_packets: int, timeout_s: float) -> PacketBatch | None:
        """Return the next packets of one link type; see ``Source.read``."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            records = self._records(max_packets)
            if records:
                return PacketBatch.from_frames(
                    [record.frame for record in records],
                    [record.time_us for record in records],
                    [record.wire_len for record in records],
                    records[0].link_type,
                )
            if self._ended:
                failure, self._failure = self._failure, None
                if failure is not None:
                    raise failure
                return None
            left_s = deadline_s - time.monotonic()
            if left_s <= 0.0:
                return PacketBatch.from_frames([], [])
            self._stream.wait(left_s)

    @property
    def progress(self) -> tuple[int, int] | None:
        """Bytes read, as they lie in the file, and bytes in all; None for a stream."""
        return self._stream.progress

    def counters(self) -> dict[str, int]:
        """Return ``packets`` handed out, ``truncated`` records at the end (0 or 1), and what a pcapng file lost.

        ``undescribed_dropped_packets`` are those of interfaces that their section does not describe.
        """
        counters = {"packets": self._packets, "truncated": self._truncated}
        if self._ng and self._reader is not None:
            counters["undescribed_dropped_packets"] = self._reader.undescribed
        return counters

    def close(self) -> None:
        """Close the descriptor."""
        self._ended = True
        self._stream.close()

    def _records(self, max_packets: int) -> list[_Record]:
        """Decode up to ``max_packets`` records of one link type from what is there."""
        records: list[_Record] = []
        if self._pending is not None:
            records.append(self._pending)
            self._pending = None
        while len(records) < max_packets and not self._ended:
            try:
                record = self._next()
            except StarvedError:
                self._stream.rewind()
                break
            except CaptureInputError as error:
                self._end(error)
                break
            if record is None:
                continue
            if records and record.link_type != records[0].link_type:
                self._pending = record
                break
            records.append(record)
        return records

    def _next(self) -> _Record | None:
        """Decode one record; None for a block that is no packet, and at the end."""
        # The readers' public iterators hide how a file ends and do not stop at block borders, so their steps are used.
        stream = self._stream
        stream.mark()
        if self._reader is None:
            self._reader = self._open_reader()
            stream.mark()
        try:
            found = self._reader._read_block() if self._ng else self._reader._read_packet()  # noqa: SLF001
        except EOFError:
            self._finish()
            return None
        except (Scapy_Exception, ValueError, IndexError, ArithmeticError, struct.error) as error:
            raise self._damaged() from error
        if found is None:
            return None
        record = self._ng_record(found) if self._ng else self._record(*found)
        if record is not None:
            self._packets += 1
            self._last_us = record.time_us
            if record.link_type in LINK_TYPES:
                self._link_type_packets += 1
            elif self._strange_link_type is None:
                self._strange_link_type = record.link_type
        return record

    def _record(self, frame: bytes, meta: Any) -> _Record | None:
        """Check and convert a record of a pcap file."""
        if meta.caplen > _MAX_CAPTURED_BYTES:
            raise self._damaged()
        if len(frame) < min(meta.caplen, MTU):
            self._finish()
            return None
        reader = self._reader
        time_us = meta.sec * 1_000_000 + (meta.usec // 1_000 if reader.nano else meta.usec)
        return _Record(frame[: self._snap_bytes], time_us, max(meta.wirelen, len(frame)), reader.linktype)

    def _ng_record(self, block: Block) -> _Record:
        """Convert a packet block of a pcapng file; a simple one has no time and takes that of the one before."""
        time_us = self._last_us if block.time_us is None else block.time_us
        wire_len = max(block.wire_len, len(block.frame))
        return _Record(block.frame[: self._snap_bytes], time_us, wire_len, block.link_type)

    def _open_reader(self) -> Any:
        """Recognise the format by its first bytes and read the file header."""
        magic = self._stream.read(4)
        self._stream.rewind()
        if not magic:
            raise CaptureInputError(f"{self._name}: is empty, not a capture")
        if magic != _PCAPNG_MAGIC and magic not in _PCAP_MAGICS:
            raise CaptureInputError(f"{self._name}: is not a pcap or pcapng capture (it begins with {magic.hex()})")
        self._ng = magic == _PCAPNG_MAGIC
        try:
            reader: Any = (PcapNgReader if self._ng else RawPcapReader)(self._stream)
        except Scapy_Exception:
            raise CaptureInputError(f"{self._name}: the header of the capture is cut short or damaged") from None
        if not self._ng and reader.linktype not in LINK_TYPES:
            raise CaptureInputError(_unknown_link_type(self._name, reader.linktype))
        return reader

    def _finish(self) -> None:
        """End the capture; say so if it did not end at a record border."""
        whole = self._stream.exhausted and self._stream.at_mark and not self._stream.cut_short
        if not whole:
            self._end(self._damaged())
            return
        failure = None
        if self._strange_link_type is not None and not self._link_type_packets:
            failure = CaptureInputError(_unknown_link_type(self._name, self._strange_link_type))
        self._end(failure)

    def _damaged(self) -> CaptureInputError:
        self._truncated = 1
        what = "ends in the middle of a record" if self._stream.exhausted else "is damaged"
        return CaptureInputError(
            f"{self._name}: {what} at byte {self._stream.tell_mark}; the packets before it were used"
        )

    def _end(self, failure: CaptureInputError | None) -> None:
        self._failure = failure
        self._ended = True
        with suppress(OSError):
            self._stream.close()


def _unknown_link_type(name: str, link_type: int) -> str:
    return f"{name}: link type {link_type} is not supported; Ethernet, Linux cooked, BSD loopback and raw IP are"
