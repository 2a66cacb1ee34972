"""Feed a capture to an agent through a FIFO: the learning part, a pause at a gate, the exam part, the end."""

import contextlib
import errno
import itertools
import os
import select
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.captures.reader import RawPacket

_MAGIC_MICROSECONDS = 0xA1B2C3D4
_SNAPLEN = 262_144
_BATCH_BYTES = 65_536
_POLL_S = 0.05
_US_PER_S = 1_000_000


def pcap_header(link_type: int) -> bytes:
    """Return the file header of a little-endian pcap stream with microseconds."""
    return struct.pack("<IHHiIII", _MAGIC_MICROSECONDS, 2, 4, 0, 0, _SNAPLEN, link_type)


def pcap_record(packet: RawPacket) -> bytes:
    """Return a packet as a pcap record."""
    seconds, micros = divmod(packet.ts_us, _US_PER_S)
    return struct.pack("<IIII", seconds, micros, len(packet.data), packet.wire_len) + packet.data


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a capture.

    Attributes
    ----------
    name
        ``learn`` or ``exam``.
    packets
        In order of time; read once.
    gate
        The part starts when this is set.
    """

    name: str
    packets: Iterable[RawPacket]
    gate: threading.Event


class _ReaderGoneError(Exception):
    """The reader closed its end of the FIFO."""


class _StoppedError(Exception):
    """The harness asked the feeder to stop."""


class Feeder:
    """Writes one device's capture into its FIFO, in a thread.

    A reader that dies loses what was in the pipe; the next one gets a new file header and goes on with the next
    packet. After the last part a new reader gets a header and the end of the file.

    Parameters
    ----------
    fifo
        Path; made here.
    link_type
        Link type of the capture (1 = Ethernet).
    parts
        What to write, in order.
    speed
        Packet time per wall time; 0 = as fast as the reader takes it.
    """

    def __init__(self, fifo: Path, *, link_type: int, parts: tuple[Part, ...], speed: float = 0.0) -> None:
        self._fifo = fifo
        self._header = pcap_header(link_type)
        self._parts = parts
        self._speed = speed
        self._stop = threading.Event()
        self._again = threading.Event()
        self._fd = -1
        self._thread = threading.Thread(target=self._run, name=f"feeder {fifo.stem}", daemon=True)
        self.done: dict[str, threading.Event] = {part.name: threading.Event() for part in parts}
        self.sent: dict[str, int] = dict.fromkeys(self.done, 0)
        self.reopened = 0

    def start(self) -> None:
        """Make the FIFO and start to write; packets flow when the first gate opens.

        Raises
        ------
        OSError
            If the FIFO cannot be made.
        """
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self._fifo, 0o600)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop the thread wherever it is; safe to call twice."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def reader_restarted(self) -> None:
        """Tell that a new reader comes; matters after the end, where nothing is written that would fail."""
        self._again.set()

    def _run(self) -> None:
        with contextlib.suppress(_StoppedError):
            self._open()
            for part in self._parts:
                self._wait_for(part.gate)
                self._write_part(part)
            self._close()
            while True:
                self._wait_for(self._again)
                self._again.clear()
                self._open()
                self._close()
        self._close()

    def _write_part(self, part: Part) -> None:
        packets = self._paced(part.packets) if self._speed > 0 else iter(part.packets)
        waiting: list[bytes] = []
        while True:
            if not waiting:
                waiting = self._next_batch(packets)
            if not waiting:
                break
            try:
                written = self._write(b"".join(waiting))
            except _ReaderGoneError:
                self._reopen()
                continue
            ends = list(itertools.accumulate(len(record) for record in waiting))
            complete = sum(1 for end in ends if end <= written)
            self.sent[part.name] += complete
            waiting = waiting[complete:]
            if written < ends[-1]:  # the reader died in the middle; the record it cut is sent again as a whole
                self._reopen()
        self.done[part.name].set()

    def _next_batch(self, packets: Iterator[RawPacket]) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        for packet in packets:
            batch.append(pcap_record(packet))
            size += len(batch[-1])
            if self._speed > 0 or size >= _BATCH_BYTES:
                break
        return batch

    def _paced(self, packets: Iterable[RawPacket]) -> Iterator[RawPacket]:
        start_s: float | None = None
        first_us = 0
        for packet in packets:
            if start_s is None:
                start_s, first_us = time.monotonic(), packet.ts_us
            due_s = start_s + (packet.ts_us - first_us) / _US_PER_S / self._speed
            if self._stop.wait(max(0.0, due_s - time.monotonic())):
                raise _StoppedError
            yield packet

    def _write(self, data: bytes) -> int:
        """Write all of ``data``; return less than its length if the reader went away in the middle."""
        view = memoryview(data)
        done = 0
        while done < len(view):
            self._wait_writable()
            try:
                done += os.write(self._fd, view[done:])
            except BlockingIOError:
                continue
            except BrokenPipeError:
                if done == 0:
                    raise _ReaderGoneError from None
                return done
        return done

    def _wait_writable(self) -> None:
        while not self._stop.is_set():
            events = _poll(self._fd, select.POLLOUT)
            if events:
                return
        raise _StoppedError

    def _wait_for(self, event: threading.Event) -> None:
        """Wait for an event; notice meanwhile if the reader dies, since its successor needs a header."""
        while not event.is_set():
            if self._stop.is_set():
                raise _StoppedError
            if self._fd < 0:
                event.wait(_POLL_S)
            elif _poll(self._fd, 0) & (select.POLLERR | select.POLLHUP):
                self._reopen()

    def _reopen(self) -> None:
        self._close()
        self.reopened += 1
        self._open()

    def _open(self) -> None:
        while True:
            self._fd = self._open_when_read()
            try:
                if self._write(self._header) == len(self._header):
                    return
            except _ReaderGoneError:
                pass
            self._close()

    def _open_when_read(self) -> int:
        while not self._stop.wait(_POLL_S):
            try:
                return os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:  # ENXIO: nobody reads yet
                    raise
        raise _StoppedError

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _poll(fd: int, events: int, *, timeout_s: float = _POLL_S) -> int:
    poller = select.poll()
    poller.register(fd, events)
    return sum(found for _, found in poller.poll(timeout_s * 1_000))
