"""A classic pcap file as a source, read through a window: the walk from record to record is all that is done singly.

For regular, uncompressed files, as ``is_classic_pcap`` tells. Streams, pcapng and gzip are for ``files.CaptureFile``.
With the compiled meter the walk is compiled too.
"""

import ctypes
import struct
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_agent.capture.errors import CaptureInputError
from device_agent.capture.rows import copy_rows
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
_WINDOW_BYTES = 1 << 19
"""Reading into memory that is in a cache takes half the time of mapping the file."""


def is_classic_pcap(path: Path) -> bool:
    """Whether a path is a regular file that begins with the whole header of a classic pcap capture."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        header = file.read(_FILE_HEADER_BYTES)
    return len(header) == _FILE_HEADER_BYTES and header[:4] in _MAGICS


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
        except OSError as error:
            raise CaptureInputError(f"{path}: cannot be read ({error.strerror})") from error
        header = self._file.read(_FILE_HEADER_BYTES)
        if len(header) < _FILE_HEADER_BYTES or header[:4] not in _MAGICS:
            self._file.close()
            raise CaptureInputError(f"{path}: the header of the capture is cut short, or it is no classic pcap")
        order, self._per_us = _MAGICS[header[:4]]
        # The upper bits may say how long the frame check sequence is.
        self._link_type = struct.unpack_from(f"{order}I", header, _LINK_TYPE_AT)[0] & 0x0FFF_FFFF
        if self._link_type not in LINK_TYPES:
            self._file.close()
            raise CaptureInputError(
                f"{path}: link type {self._link_type} is not supported; "
                "Ethernet, Linux cooked, BSD loopback and raw IP are"
            )
        kind = f"{order}u4"
        self._header = np.dtype([("seconds", kind), ("fraction", kind), ("captured", kind), ("wire_len", kind)])
        self._captured_at = struct.Struct(f"{order}8xI")
        self._big_endian = order == ">"
        self._library = load()
        self._size = path.stat().st_size
        self._at = _FILE_HEADER_BYTES
        # Behind the window there is room for a frame, so that one may be copied whole and cut afterwards.
        self._window = np.zeros(_WINDOW_BYTES + _RECORD_HEADER_BYTES + self._snap_bytes, dtype=np.uint8)
        self._window_at = self._window_end = 0
        self._packets = 0
        self._truncated = 0
        self._ended = False

    def read(self, max_packets: int, timeout_s: float) -> PacketBatch | None:  # noqa: ARG002 - a file never waits
        """Return the next packets; see ``Source.read``."""
        if self._ended:
            return None
        batch = self._walked(max_packets) if self._library is None else self._compiled(self._library, max_packets)
        if len(batch):
            self._packets += len(batch)
            return batch
        cut = self._at < self._size
        what = "is damaged" if self._absurd() else "ends in the middle of a record"
        self.close()
        if cut:
            self._truncated = 1
            raise CaptureInputError(f"{self._name}: {what} at byte {self._at}; the packets before it were used")
        return None

    def counters(self) -> dict[str, int]:
        """Return ``packets`` handed out and ``truncated`` records at the end (0 or 1)."""
        return {"packets": self._packets, "truncated": self._truncated}

    def close(self) -> None:
        """Close the file."""
        self._ended = True
        self._file.close()

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes read, and bytes in all."""
        return self._at, self._size

    def _absurd(self) -> bool:
        """Whether the next record claims a length that no frame has."""
        left = self._window[self._window_at : self._window_end]
        if len(left) < _RECORD_HEADER_BYTES:
            return False
        return bool(self._captured_at.unpack_from(left.tobytes())[0] > _MAX_CAPTURED_BYTES)

    def _compiled(self, library: ctypes.CDLL, max_packets: int) -> PacketBatch:
        """Walk and copy in one pass of compiled code."""
        most = max(1, min(max_packets, (self._size - self._at) // _RECORD_HEADER_BYTES))
        frames = np.empty(most * self._snap_bytes, dtype=np.uint8)
        offsets, times = np.zeros(most + 1, dtype=np.int64), np.empty(most, dtype=np.int64)
        wire, n, moved = np.empty(most, dtype=np.int32), 0, ctypes.c_int64()
        while n < most:
            moved.value = self._window_at
            n += library.kw_read(
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
            self._move_to(moved.value)
            if n < most and not self._slide():
                break
        return PacketBatch(frames[: offsets[n]], offsets[: n + 1], times[:n], wire[:n], self._link_type)

    def _walked(self, max_packets: int) -> PacketBatch:
        """Walk in Python, copy in arrays."""
        most = max(1, min(max_packets, (self._size - self._at) // _RECORD_HEADER_BYTES))
        frames = np.empty((most + 1) * self._snap_bytes, dtype=np.uint8)
        lengths: list[npt.NDArray[np.int64]] = []
        headers: list[npt.NDArray[np.void]] = []
        n = filled = 0
        while n < most:
            starts = self._starts(most - n)
            if len(starts):
                found = self._headers_at(starts)
                captured = np.minimum(found["captured"].astype(np.int64), self._snap_bytes)
                copy_rows(self._window, starts + _RECORD_HEADER_BYTES, captured, self._snap_bytes, frames[filled:])
                headers.append(found)
                lengths.append(captured)
                n, filled = n + len(starts), filled + int(captured.sum())
            if n < most and not self._slide():
                break
        if not n:
            return PacketBatch.from_frames([], [], link_type=self._link_type)
        header, captured = np.concatenate(headers), np.concatenate(lengths)
        offsets = np.zeros(n + 1, dtype=np.int64)
        np.cumsum(captured, out=offsets[1:])
        wire_len = np.maximum(header["wire_len"].astype(np.int64), captured)
        return PacketBatch(
            data=frames[:filled],
            offsets=offsets,
            ts_us=header["seconds"].astype(np.int64) * 1_000_000 + header["fraction"] // self._per_us,
            wire_len=np.minimum(wire_len, np.iinfo(np.int32).max).astype(np.int32),
            link_type=self._link_type,
        )

    def _starts(self, most: int) -> npt.NDArray[np.int64]:
        """Return where the next whole records of the window begin, and move behind them."""
        at, end, captured_at = self._window_at, self._window_end, self._captured_at.unpack_from
        data = memoryview(self._window)[:end]  # type: ignore[arg-type]
        starts: list[int] = []
        append = starts.append
        try:
            for _ in repeat(None, most):
                append(at)
                (captured,) = captured_at(data, at)
                at += captured + _RECORD_HEADER_BYTES
        except struct.error:  # behind the window; asking each time whether that is so would cost a fifth
            starts.pop()
        # A sixth of the time that NumPy takes for a list.
        places = np.frombuffer(struct.pack(f"={len(starts) + 1}q", *starts, at), dtype=np.int64)
        bad = (places[1:] > end) | (places[1:] - places[:-1] > _MAX_CAPTURED_BYTES + _RECORD_HEADER_BYTES)
        whole = int(bad.argmax()) if bad.any() else len(starts)
        self._move_to(int(places[whole]))
        return places[:whole]

    def _headers_at(self, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
        # As plain bytes: a structured array would be indexed field by field.
        whole = f"V{_RECORD_HEADER_BYTES}"
        windows = np.ndarray((_WINDOW_BYTES + 1,), dtype=whole, buffer=self._window, strides=(1,))
        return windows[starts].view(self._header)

    def _move_to(self, window_at: int) -> None:
        self._at += window_at - self._window_at
        self._window_at = window_at

    def _slide(self) -> bool:
        """Move the window on; return whether there is more in it now."""
        left = self._window_end - self._window_at
        self._window[:left] = self._window[self._window_at : self._window_end].copy()
        self._file.seek(self._at + left)
        got = self._file.readinto(memoryview(self._window)[left:_WINDOW_BYTES])  # type: ignore[arg-type]
        self._window_at, self._window_end = 0, left + (got or 0)
        return bool(got)
