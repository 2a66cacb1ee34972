"""A live interface as a source. Scapy opens the socket, compiles the filter and sets promiscuous mode.

On Linux, frames are then taken from that socket directly: cut in the kernel to what the meter reads, with the kernel's
time stamp, the length on the wire and the VLAN tag the kernel took off, and never dissected. Elsewhere Scapy's
listening socket hands over raw frames.
"""

import errno
import select
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import Any

import device_agent.capture.scapy_setup  # noqa: F401  # isort: skip - before Scapy's own modules

from scapy.config import conf
from scapy.error import Scapy_Exception

from device_agent.capture.errors import CaptureInputError, CapturePermissionError
from device_agent.capture.source import CaptureSettings
from device_agent.flows.packets import BSD_NULL, ETHERNET, LINK_TYPES
from device_agent.flows.records import PacketBatch

_SOL_PACKET, _PACKET_STATISTICS, _PACKET_AUXDATA, _PACKET_IGNORE_OUTGOING = 263, 6, 8, 23
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35
_AUXDATA = struct.Struct("=IIIHHHH")
_VLAN_VALID, _VLAN_TPID_VALID = 0x10, 0x40
_ANCILLARY_BYTES = 256
_RAW_IP = 101
_LINK_TYPE_OF_HARDWARE = {1: ETHERNET, 772: ETHERNET, 65534: _RAW_IP, 776: _RAW_IP, 512: _RAW_IP, 768: _RAW_IP}
"""ARPHRD numbers: Ethernet, loopback (with an Ethernet header), tun, sit, ppp, ipip."""

_GONE = frozenset((errno.ENODEV, errno.ENXIO, errno.EBADF))
_PERMISSION_HELP = (
    "capturing needs CAP_NET_RAW: run as root, set AmbientCapabilities=CAP_NET_RAW in the systemd unit, "
    "or use setcap cap_net_raw+ep on the Python interpreter"
)


class LiveSource:
    """Packets of an interface as they pass.

    Parameters
    ----------
    interface
        Name, as ``ip link`` shows it.
    settings
        Filter, lengths and mode.

    Raises
    ------
    CaptureInputError
        If there is no such interface, its link type is not supported or the filter does not compile.
    CapturePermissionError
        If the process may not open a packet socket.
    """

    live = True
    progress = None

    def __init__(self, interface: str, settings: CaptureSettings) -> None:
        self._interface = interface
        self._snap_bytes = settings.snap_bytes
        self._packets = 0
        self._outages = 0
        self._kernel_dropped: int | None = None
        _require(interface)
        self._scapy_socket = _open_socket(interface, settings)
        self._direct = sys.platform == "linux"
        try:
            if self._direct:
                self._socket: socket.socket = self._scapy_socket.ins
                self._link_type = self._prepare(settings)
                self._kernel_dropped = self._read_drops()
            else:
                self._link_type = _link_type_of(self._scapy_socket)
        except BaseException:
            self.close()
            raise
        if self._link_type not in LINK_TYPES:
            self.close()
            raise CaptureInputError(f"{interface}: this kind of interface is not supported")

    def read(self, max_packets: int, timeout_s: float) -> PacketBatch | None:
        """Return what has arrived; waits up to ``timeout_s`` for the first packet. Never None: it has no end."""
        collect = self._collect_direct if self._direct else self._collect_portable
        deadline_s = time.monotonic() + timeout_s
        while True:
            frames: list[bytes] = []
            times_us: list[int] = []
            wire: list[int] = []
            try:
                collect(max_packets, frames, times_us, wire)
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    raise CaptureInputError(f"{self._interface}: capture ended ({error.strerror})") from error
                self._outages += 1
            left_s = deadline_s - time.monotonic()
            if frames or left_s <= 0.0:
                self._packets += len(frames)
                return PacketBatch.from_frames(frames, times_us, wire, self._link_type)
            select.select([self._scapy_socket.fileno()], [], [], left_s)
            if not self._exists():
                raise CaptureInputError(f"{self._interface}: the interface went away")

    def counters(self) -> dict[str, int]:
        """Return ``packets``, ``outages`` (interface down) and, where the kernel tells, ``kernel_dropped_packets``."""
        counters = {"packets": self._packets, "outages": self._outages}
        if self._kernel_dropped is not None:
            self._kernel_dropped += self._read_drops() or 0
            counters["kernel_dropped_packets"] = self._kernel_dropped
        return counters

    def close(self) -> None:
        """Close the socket and leave promiscuous mode."""
        with suppress(OSError):
            self._scapy_socket.close()

    def _exists(self) -> bool:
        try:
            socket.if_nametoindex(self._interface)
        except OSError:
            return False
        return True

    def _prepare(self, settings: CaptureSettings) -> int:
        """Set the Linux socket up; return its link type."""
        sock = self._socket
        sock.setblocking(False)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, settings.buffer_bytes)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, settings.buffer_bytes)
        _, _, _, hardware, *_ = sock.getsockname()
        if hardware == 772:
            # On loopback every packet passes twice, once going out and once coming in.
            with suppress(OSError):
                sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        return _LINK_TYPE_OF_HARDWARE.get(hardware, -1)

    def _read_drops(self) -> int | None:
        """Return the packets the kernel dropped since the last call; None where it does not say."""
        try:
            raw = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        except OSError:
            return None
        return int(struct.unpack("=II", raw[:8])[1])

    def _collect_direct(self, count: int, frames: list[bytes], times_us: list[int], wire: list[int]) -> None:
        receive, snap_bytes = self._socket.recvmsg, self._snap_bytes
        with suppress(BlockingIOError, InterruptedError):
            for _ in range(count):
                frame, ancillary, _, _ = receive(snap_bytes, _ANCILLARY_BYTES)
                frame, time_us, wire_len = _unpack_ancillary(frame, ancillary)
                frames.append(frame)
                times_us.append(time_us)
                wire.append(wire_len)

    def _collect_portable(self, count: int, frames: list[bytes], times_us: list[int], wire: list[int]) -> None:
        for _ in range(count):
            if not select.select([self._scapy_socket.fileno()], [], [], 0)[0]:
                return
            _, frame, stamp = self._scapy_socket.recv_raw()
            if frame is not None:
                frames.append(frame[: self._snap_bytes])
                times_us.append(round((stamp or time.time()) * 1_000_000))
                wire.append(len(frame))


def _unpack_ancillary(frame: bytes, ancillary: list[tuple[int, int, bytes]]) -> tuple[bytes, int, int]:
    """Return the frame with its VLAN tag back in place, its time in microseconds and its length on the wire."""
    time_us, wire_len = 0, len(frame)
    for level, kind, data in ancillary:
        if level == _SOL_PACKET and kind == _PACKET_AUXDATA and len(data) >= _AUXDATA.size:
            status, length, _, _, _, tci, tpid = _AUXDATA.unpack_from(data)
            wire_len = max(wire_len, length)
            if status & _VLAN_VALID and len(frame) >= 12:
                tag = struct.pack("!HH", tpid if status & _VLAN_TPID_VALID else 0x8100, tci)
                frame = frame[:12] + tag + frame[12:]
                wire_len += 4
        elif level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(data) >= 8:
            seconds, nanoseconds = struct.unpack(
                "=qq" if len(data) >= 16 else "=ii", data[: 16 if len(data) >= 16 else 8]
            )
            time_us = seconds * 1_000_000 + nanoseconds // 1_000
    return frame, time_us or time.time_ns() // 1_000, wire_len


def _require(interface: str) -> None:
    """Refuse an interface that does not exist, naming those that do."""
    names = [name for _, name in socket.if_nameindex()]
    if interface not in names:
        raise CaptureInputError(f"{interface!r}: no such interface; there are {', '.join(names) or 'none'}")


def load_platform() -> None:
    """Let Scapy register this platform's sockets in its configuration and look at the interfaces anew."""
    import scapy.arch  # noqa: F401, PLC0415 - needed for its effects, and slow

    conf.ifaces.reload()


def _open_socket(interface: str, settings: CaptureSettings) -> Any:
    """Open Scapy's listening socket."""
    load_platform()
    try:
        return conf.L2listen(iface=interface, filter=settings.bpf or None, promisc=settings.promiscuous)
    except PermissionError:
        raise CapturePermissionError(f"{interface}: {_PERMISSION_HELP}") from None
    except Scapy_Exception as error:
        text = " ".join(str(error).split())
        if "libpcap is not available" in text:
            raise CaptureInputError(
                f"{interface}: a filter needs libpcap; install it (Debian: libpcap0.8) or remove the filter"
            ) from None
        if "filter" in text.lower():
            raise CaptureInputError(f"{interface}: the filter {settings.bpf!r} does not compile: {text}") from None
        raise CaptureInputError(f"{interface}: cannot be opened: {text}") from error
    except OSError as error:
        raise CaptureInputError(f"{interface}: cannot be opened ({error.strerror or error})") from error


def _link_type_of(scapy_socket: Any) -> int:
    """Return the link type of a listening socket by the layer Scapy chose for it."""
    return {"Ethernet": ETHERNET, "Loopback": BSD_NULL, "IP": _RAW_IP, "IPv6": _RAW_IP}.get(
        getattr(scapy_socket.LL, "name", ""), -1
    )
