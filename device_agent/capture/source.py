"""What a source of packets is, and how one is opened from its name."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from device_agent.capture.errors import CaptureInputError, NoRingError
from device_agent.flows.records import PacketBatch

INTERFACE_PREFIX = "iface:"
STDIN = "-"


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """How to capture.

    Attributes
    ----------
    bpf
        Filter in the language of libpcap, for interfaces only; empty: everything.
    snap_bytes
        Bytes kept of each packet, >= 64. The meter reads headers only.
    buffer_bytes
        Kernel buffer of a live socket: what survives while the process is busy elsewhere.
    promiscuous
        Whether an interface also takes frames for other hosts.
    """

    bpf: str = ""
    snap_bytes: int = 256
    buffer_bytes: int = 8 * 1024 * 1024
    promiscuous: bool = True

    def __post_init__(self) -> None:
        if self.snap_bytes < 64:
            raise ValueError(f"snap_bytes is {self.snap_bytes}, it must be at least 64")


class Source(Protocol):
    """A source of packets; used by one thread at a time.

    Attributes
    ----------
    live
        Whether packets come as they happen, on the clock of this host. Only then may a full queue drop packets and may
        the wall clock expire flows.
    """

    @property
    def live(self) -> bool:
        """See above."""

    @property
    def progress(self) -> tuple[int, int] | None:
        """Bytes read, and bytes in all; None where nobody knows how much there is."""

    def read(self, max_packets: int, timeout_s: float) -> PacketBatch | None:
        """Return what is there, at most ``max_packets``; an empty batch if nothing came in time; None at the end.

        Raises
        ------
        CaptureInputError
            If the capture is damaged or the interface went away; all good packets were returned before.
        """

    def counters(self) -> dict[str, int]:
        """Return running totals: ``packets``, and what the source knows of losses."""

    def close(self) -> None:
        """Release the file or socket; safe to call twice."""


def open_source(spec: str, settings: CaptureSettings | None = None) -> Source:
    """Open a source by its name: the fastest one that can read it.

    Parameters
    ----------
    spec
        Path of a pcap or pcapng file (also gzip) or of a FIFO through which one is streamed; ``-`` for standard
        input; ``iface:<name>`` for a live interface.
    settings
        Defaults if None.

    Raises
    ------
    CaptureInputError
        If the file or interface does not exist, cannot be read, or a filter is set for a file.
    CapturePermissionError
        If the process may not open a packet socket.
    """
    settings = settings or CaptureSettings()
    if spec.startswith(INTERFACE_PREFIX):
        return _open_interface(spec.removeprefix(INTERFACE_PREFIX), settings)
    if settings.bpf:
        raise CaptureInputError(f"{spec}: a BPF filter works on live interfaces only; remove it")
    descriptor, waits_for_writer = _open(spec)
    if spec != STDIN and not waits_for_writer:
        from device_agent.capture.mapped import MappedCapture, is_classic_pcap  # noqa: PLC0415 - loads NumPy code

        if is_classic_pcap(Path(spec)):
            os.close(descriptor)
            return MappedCapture(Path(spec), settings)
    from device_agent.capture.files import CaptureFile  # noqa: PLC0415 - loads Scapy

    return CaptureFile("standard input" if spec == STDIN else spec, descriptor, settings, waits=waits_for_writer)


def _open_interface(interface: str, settings: CaptureSettings) -> Source:
    """Return a ring where the kernel gives one, else the portable source."""
    from device_agent.capture.live import LiveSource  # noqa: PLC0415 - loads the socket side of Scapy
    from device_agent.capture.ring import RingSource  # noqa: PLC0415

    try:
        return RingSource(interface, settings)
    except NoRingError:
        return LiveSource(interface, settings)


def _open(spec: str) -> tuple[int, bool]:
    """Open a path for reading; return the descriptor and whether it is a FIFO, which may have no writer yet."""
    if spec == STDIN:
        return os.dup(0), False
    path = Path(spec)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CaptureInputError(f"{spec}: is a directory; name a capture file in it")
        # Without O_NONBLOCK, opening a FIFO hangs until a writer comes.
        return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), stat.S_ISFIFO(mode)
    except FileNotFoundError:
        raise CaptureInputError(f"{spec}: no such file; for an interface write {INTERFACE_PREFIX}<name>") from None
    except PermissionError:
        raise CaptureInputError(f"{spec}: no permission to read it") from None
    except OSError as error:
        raise CaptureInputError(f"{spec}: cannot be opened ({error.strerror})") from error
