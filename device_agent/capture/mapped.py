"""A classic pcap file as a source, mapped into memory: the walk from record to record is all that is done one by one.

For regular, uncompressed files, as ``is_classic_pcap`` tells. Streams, pcapng and gzip are for ``files.CaptureFile``.
With the compiled meter the walk is compiled too.
"""

import ctypes
import mmap
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_agent.capture.errors import CaptureInputError
from device_agent.capture.ring import pack_rows
from device_agent.capture.source import CaptureSettings
from device_agent.flows.fast.library import load
from device_agent.flows.packets import LINK_TYPES
from device_agent.flows.records import PacketBatch

_MAGICS = {
    b"\xa1\xb2\xc3\xd4": (">", 1),
    b"\xd4\xc3\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1_000),
    b"\x4d\x3c\xb2\xa1": ("<", 1_000),
}
_FILE_HEADER_BYTES, _RECORD_HEADER_BYTES = 24, 16
_LINK_TYPE_AT = 20
_MAX_CAPTURED_BYTES = 262_144
_WINDOW_BYTES = 1 << 20


def is_classic_pcap(path: Path) -> bool:
    """Whether a path is a regular file that begins like a classic pcap capture."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) in _MAGICS


class MappedCapture:
    """Packets of a classic pcap file.

    A capture that ends inside a record gives all whole packets first and then raises once; after that ``read`` returns
    None.

    Parameters
    ----------
    path
        A file for which ``is_classic_pcap`` holds.
    settings
        Only ``snap_bytes`` counts here.

    Raises
    ------
    CaptureInputError
        If the file cannot be read, its header is cut short or its link type is not supported.
    """

    live = False

    def __init__(self, path: Path, settings: CaptureSettings) -> None:
        self._name = str(path)
        self._snap_bytes = settings.snap_bytes
        try:
            self._file = path.open("rb", buffering=0)
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CaptureInputError(f"{path}: cannot be read ({error})") from error
        self._size = len(self._map)
        order, self._per_us = _MAGICS[self._map[:4]]
        if self._size < _FILE_HEADER_BYTES:
            self.close()
            raise CaptureInputError(f"{path}: the header of the capture is cut short")
        (link_type,) = struct.unpack_from(f"{order}I", self._map, _LINK_TYPE_AT)
        # The upper bits may say how long the frame check sequence is.
        self._link_type = link_type & 0x0FFF_FFFF
        if self._link_type not in LINK_TYPES:
            self.close()
            raise CaptureInputError(
                f"{path}: link type {self._link_type} is not supported; "
                "Ethernet, Linux cooked, BSD loopback and raw IP are"
            )
        self._big_endian = order == ">"
        self._library = load()
        self._window = np.empty(_WINDOW_BYTES if self._library else 0, dtype=np.uint8)
        self._window_at = self._window_end = 0
        self._captured_at = struct.Struct(f"{order}8xI")
        kind = f"{order}u4"
        self._header = np.dtype([("seconds", kind), ("fraction", kind), ("captured", kind), ("wire_len", kind)])
        self._at = _FILE_HEADER_BYTES
        self._packets = 0
        self._truncated = 0
        self._ended = False

    def read(self, max_packets: int, timeout_s: float) -> PacketBatch | None:  # noqa: ARG002 - a file never waits
        """Return the next packets; see ``Source.read``."""
        if self._ended:
            return None
        batch = self._batch(self._walk(max_packets)) if self._library is None else self._compiled(max_packets)
        if len(batch):
            self._packets += len(batch)
            return batch
        self._ended = True
        if self._at < self._size:
            self._truncated = 1
            raise CaptureInputError(
                f"{self._name}: ends in the middle of a record or is damaged at byte {self._at}; "
                "the packets before it were used"
            )
        return None

    def counters(self) -> dict[str, int]:
        """Return ``packets`` handed out and ``truncated`` records at the end (0 or 1)."""
        return {"packets": self._packets, "truncated": self._truncated}

    def close(self) -> None:
        """Release the file."""
        self._ended = True
        self._map.close()
        self._file.close()

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes read and bytes in all."""
        return self._at, self._size

    def _walk(self, max_packets: int) -> npt.NDArray[np.int64]:
        """Return where the next whole records begin."""
        at, data, captured_at, last = self._at, self._map, self._captured_at.unpack_from, len(self._map)
        starts: list[int] = []
        append = starts.append
        room = last - _RECORD_HEADER_BYTES
        while at <= room and len(starts) < max_packets:
            (captured,) = captured_at(data, at)
            after = at + _RECORD_HEADER_BYTES + captured
            if after > last or captured > _MAX_CAPTURED_BYTES:
                break
            append(at)
            at = after
        self._at = at
        return np.array(starts, dtype=np.int64)

    def _compiled(self, max_packets: int) -> PacketBatch:
        """Walk and copy in one pass of compiled code."""
        most = max(1, min(max_packets, (self._size - self._at) // _RECORD_HEADER_BYTES))
        frames = np.empty(most * self._snap_bytes, dtype=np.uint8)
        offsets, times = np.zeros(most + 1, dtype=np.int64), np.empty(most, dtype=np.int64)
        wire, n, moved = np.empty(most, dtype=np.int32), 0, ctypes.c_int64()
        while n < most:
            moved.value = self._window_at
            n += self._library.kw_read(  # type: ignore[union-attr]
                self._window.ctypes.data,
                self._window_end,
                ctypes.byref(moved),
                self._big_endian,
                self._per_us,
                self._snap_bytes,
                most - n,
                frames.ctypes.data,
                offsets[n:].ctypes.data,
                times[n:].ctypes.data,
                wire[n:].ctypes.data,
            )
            self._at += moved.value - self._window_at
            self._window_at = moved.value
            if n < most and not self._slide():
                break
        return PacketBatch(frames[: offsets[n]], offsets[: n + 1], times[:n], wire[:n], self._link_type)

    def _slide(self) -> bool:
        """Move the window on: reading into memory that is in a cache beats mapping. Return whether it grew."""
        left = self._window_end - self._window_at
        self._window[:left] = self._window[self._window_at : self._window_end].copy()
        self._file.seek(self._at + left)
        got = self._file.readinto(memoryview(self._window)[left:]) or 0
        self._window_at, self._window_end = 0, left + got
        return got > 0

    def _batch(self, starts: npt.NDArray[np.int64]) -> PacketBatch:
        """Copy the first bytes of each frame out."""
        if not len(starts):
            return PacketBatch.from_frames([], [], link_type=self._link_type)
        first, last = int(starts[0]), min(self._at + self._snap_bytes + _RECORD_HEADER_BYTES, self._size)
        chunk = np.frombuffer(self._map[first:last], dtype=np.uint8)
        width = self._snap_bytes + _RECORD_HEADER_BYTES
        if len(chunk) < self._at - first + width:
            chunk = np.concatenate((chunk, np.zeros(width, dtype=np.uint8)))
        rows = np.ndarray((len(chunk) - width + 1,), dtype=f"V{width}", buffer=chunk, strides=(1,))[starts - first]
        bytes_of = rows.view(np.uint8).reshape(len(starts), width)
        headers = np.ascontiguousarray(bytes_of[:, :_RECORD_HEADER_BYTES]).view(self._header)[:, 0]
        captured = np.minimum(headers["captured"].astype(np.int64), self._snap_bytes)
        data, offsets = pack_rows(np.ascontiguousarray(bytes_of[:, _RECORD_HEADER_BYTES:]), captured)
        wire_len = np.maximum(headers["wire_len"].astype(np.int64), captured)
        return PacketBatch(
            data=data,
            offsets=offsets,
            ts_us=headers["seconds"].astype(np.int64) * 1_000_000 + headers["fraction"] // self._per_us,
            wire_len=np.minimum(wire_len, np.iinfo(np.int32).max).astype(np.int32),
            link_type=self._link_type,
        )
