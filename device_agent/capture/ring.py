"""A live interface on Linux, through a ring that the kernel fills and this process reads as arrays.

The ring (TPACKET_V2) has slots of one size. So the header of every slot is an element of a strided array, the bytes
of every frame are a row of a matrix, and a batch costs a few array operations, however many packets it holds. Scapy
opens the socket, compiles the filter and sets promiscuous mode; the same descriptor is then turned into a ring.
"""

import errno
import mmap
import select
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_agent.capture.errors import CaptureInputError, NoRingError
from device_agent.capture.live import LiveSource
from device_agent.capture.rows import pack_rows
from device_agent.capture.source import CaptureSettings
from device_agent.flows.records import PacketBatch

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

_SOL_PACKET, _PACKET_RX_RING, _PACKET_VERSION, _TPACKET_V2 = 263, 5, 10, 1
_USER_OWNS, _LOSING, _VLAN_VALID, _VLAN_TPID_VALID = 0x01, 0x04, 0x10, 0x40
_SLOT_HEADER = np.dtype(
    [
        ("status", "u4"),
        ("wire_len", "u4"),
        ("captured", "u4"),
        ("frame_at", "u2"),
        ("network_at", "u2"),
        ("seconds", "u4"),
        ("nanoseconds", "u4"),
        ("vlan_tci", "u2"),
        ("vlan_tpid", "u2"),
    ]
)
"""``struct tpacket2_hdr`` of linux/if_packet.h, in the byte order of this host."""

_SMALLEST_SLOT_BYTES = 256
_LARGEST_HEADER_BYTES = 96
_BLOCK_BYTES = 1 << 16
_MIN_SLOTS = 256
TICK_S = 0.05
"""Between two looks at the ring, unless there was a backlog: a batch has a fixed cost, so batches are made by time."""
BACKLOG_PACKETS = 4_096
"""So many frames at once mean that more are waiting."""


class RingSource(LiveSource):
    """Packets of an interface as they pass, from a ring of slots.

    Frames are cut in the kernel to what fits into a slot (of 256 bytes, about 170 to 190 are the frame's, unless
    ``snap_bytes`` asks for more). The tag that the kernel takes off a VLAN frame is put back.

    Parameters
    ----------
    interface
        Name, as ``ip link`` shows it.
    settings
        Filter, lengths and mode. ``buffer_bytes`` is the size of the ring.

    Raises
    ------
    CaptureInputError
        As ``LiveSource``.
    NoRingError
        If the ring cannot be set up, as on other systems than Linux.
    CapturePermissionError
        If the process may not open a packet socket.
    """

    def __init__(self, interface: str, settings: CaptureSettings) -> None:
        if sys.platform != "linux":
            raise NoRingError(f"{interface}: a packet ring needs Linux; use the portable source")
        super().__init__(interface, settings)
        wanted = settings.snap_bytes + (_LARGEST_HEADER_BYTES if settings.snap_bytes > _SMALLEST_SLOT_BYTES else 0)
        self._slot_bytes = max(_SMALLEST_SLOT_BYTES, 1 << (wanted - 1).bit_length())
        self._slots = max(_MIN_SLOTS, 1 << (max(settings.buffer_bytes // self._slot_bytes, 1)).bit_length() - 1)
        self._next = 0
        self._next_look_s = 0.0
        self._oversized = 0
        self._mtu = _mtu(interface)
        try:
            self._ring = self._map()
        except OSError as error:
            self.close()
            raise NoRingError(f"{interface}: the kernel gives no packet ring ({error.strerror})") from error
        self._headers = np.ndarray((self._slots,), dtype=_SLOT_HEADER, buffer=self._ring, strides=(self._slot_bytes,))
        self._frames = np.frombuffer(self._ring, dtype=np.uint8).reshape(self._slots, self._slot_bytes)
        # What was lost before there was a ring is no loss of this source.
        self._read_drops()
        self._kernel_dropped = 0
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN | select.POLLERR)

    def read(self, max_packets: int, timeout_s: float) -> PacketBatch | None:
        """Return what has arrived; see ``Source.read``. Never None: an interface has no end."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            pause_s = min(self._next_look_s, deadline_s) - time.monotonic()
            if pause_s > 0.0:
                time.sleep(pause_s)
            ready = self._ready(max_packets) if time.monotonic() >= self._next_look_s else 0
            if ready:
                # The kernel is asked between reading the status words and reading the frames. That keeps the totals
                # from wrapping, and no processor reads frames ahead across a call into the kernel.
                self._kernel_dropped = (self._kernel_dropped or 0) + (self._read_drops() or 0)
                batch = self._take(ready)
                backlog = ready >= min(BACKLOG_PACKETS, max_packets, self._slots // 4) or self._next == 0
                self._next_look_s = 0.0 if backlog else time.monotonic() + TICK_S
                return batch
            left_s = deadline_s - time.monotonic()
            if left_s <= 0.0:
                return PacketBatch.from_frames([], [], link_type=self._link_type)
            self._wait(left_s)

    def counters(self) -> dict[str, int]:
        """Return the counters of ``LiveSource`` and ``oversized_packets``.

        Frames longer than the interface may carry were joined by offloading (GRO); their count and sizes are not those
        of the packets on the wire. Switch it off: ``ethtool -K <interface> gro off lro off``.
        """
        return super().counters() | {"oversized_packets": self._oversized}

    def close(self) -> None:
        """Release the ring, close the socket and leave promiscuous mode."""
        if hasattr(self, "_headers"):
            del self._headers, self._frames
            # A batch in the hands of a caller is a copy, so nothing refers to the ring any more.
            with suppress(BufferError):
                self._ring.close()
        super().close()

    def _map(self) -> mmap.mmap:
        """Turn the socket into a ring and map it."""
        sock, size = self._socket, self._slots * self._slot_bytes
        block = max(_BLOCK_BYTES, self._slot_bytes)
        sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, struct.pack("=i", _TPACKET_V2))
        request = struct.pack("=IIII", block, size // block, self._slot_bytes, self._slots)
        sock.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
        return mmap.mmap(sock.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)

    def _ready(self, limit: int) -> int:
        """Return how many frames are ready from the cursor on, not past the end of the ring."""
        limit, seen, step = min(limit, self._slots - self._next), 0, 64
        status = self._headers["status"]
        while seen < limit:
            ready = status[self._next + seen : self._next + min(limit, seen + step)] & _USER_OWNS
            missing = int(ready.argmin())
            if not ready[missing]:
                return seen + missing
            seen += len(ready)
            step *= 8
        return seen

    def _take(self, n: int) -> PacketBatch:
        """Copy ``n`` ready frames out and give their slots back."""
        slots = slice(self._next, self._next + n)
        headers = self._headers[slots].copy()
        at = headers["frame_at"].astype(np.int64)
        captured = np.minimum(headers["captured"].astype(np.int64), self._slot_bytes - at)
        if self._snap_bytes > _SMALLEST_SLOT_BYTES:
            captured = np.minimum(captured, self._snap_bytes)
        captured = np.maximum(captured, 0)
        width = max(int(captured.max()), 16) + 4
        frames = _frame_rows(self._frames[slots], at, width)
        self._headers["status"][slots] = 0
        self._next = (self._next + n) % self._slots
        self._packets += n
        wire_len = headers["wire_len"].astype(np.int64)
        self._oversized += int(np.count_nonzero(wire_len > self._mtu))
        tagged = ((headers["status"] & _VLAN_VALID) != 0) & (captured >= 12)
        if tagged.any():
            _put_tags_back(frames, headers, tagged)
            captured, wire_len = captured + 4 * tagged, wire_len + 4 * tagged
        data, offsets = pack_rows(frames, captured)
        return PacketBatch(
            data=data,
            offsets=offsets,
            ts_us=headers["seconds"].astype(np.int64) * 1_000_000 + headers["nanoseconds"] // 1_000,
            wire_len=np.minimum(np.maximum(wire_len, captured), np.iinfo(np.int32).max).astype(np.int32),
            link_type=self._link_type,
        )

    def _wait(self, timeout_s: float) -> None:
        """Wait for a frame; notice when the interface goes down or away."""
        events = self._poll.poll(timeout_s * 1_000)
        if any(event & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, event in events):
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == errno.ENETDOWN:
                self._outages += 1
            elif code:
                raise CaptureInputError(f"{self._interface}: capture ended ({errno.errorcode.get(code, code)})")
        if not events and not self._exists():
            raise CaptureInputError(f"{self._interface}: the interface went away")


def _frame_rows(slots: U8, at: I64, width: int) -> U8:
    """Return the first ``width`` bytes of each frame as a matrix; bytes behind the end of a slot are 0."""
    first = int(at[0])
    if (at == first).all():
        rows = slots[:, first : first + width]
    else:
        columns = np.minimum(at[:, None] + np.arange(width), slots.shape[1] - 1)
        rows = np.take_along_axis(slots, columns, axis=1)
    if rows.shape[1] == width:
        return np.ascontiguousarray(rows)
    padded = np.zeros((len(slots), width), dtype=np.uint8)
    padded[:, : rows.shape[1]] = rows
    return padded


def _put_tags_back(frames: U8, headers: npt.NDArray[np.void], tagged: npt.NDArray[np.bool_]) -> None:
    """Insert the VLAN tag behind the addresses of tagged frames; each row has four bytes to spare."""
    rows, meta = frames[tagged], headers[tagged]
    moved = np.empty_like(rows)
    moved[:, :12], moved[:, 16:] = rows[:, :12], rows[:, 12:-4]
    tpid = np.where((meta["status"] & _VLAN_TPID_VALID) != 0, meta["vlan_tpid"], 0x8100)
    tag = np.stack([tpid, meta["vlan_tci"]], axis=1).astype(">u2")
    moved[:, 12:16] = np.ascontiguousarray(tag).view(np.uint8).reshape(-1, 4)
    frames[tagged] = moved


def _mtu(interface: str) -> int:
    """Return the longest frame an interface carries without offloading: its MTU, a link header and two tags."""
    try:
        return int(Path(f"/sys/class/net/{interface}/mtu").read_text(encoding="ascii")) + 22
    except (OSError, ValueError):
        return 1_522
