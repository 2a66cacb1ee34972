"""Bytes of a file, a FIFO or standard input, read ahead without blocking, with gzip undone on the way."""

import os
import select
import stat
import time
import zlib

from device_agent.capture.errors import CaptureInputError

_CHUNK_BYTES = 262_144
_MAX_RECORD_BYTES = 16 * 1024 * 1024
_GZIP_MAGIC = b"\x1f\x8b"
_POLL_S = 0.02


class StarvedError(Exception):
    """The bytes asked for have not come yet; go back to the mark and try again later."""


class ByteStream:
    """A file object for decoders that only know how to block.

    ``read`` raises ``StarvedError`` instead of waiting. The caller sets a mark at each record border, goes back to it
    when starved, and waits with ``wait``. Only what follows the mark is kept, and a record has a bounded length.

    Parameters
    ----------
    name
        For error texts.
    descriptor
        Open file descriptor; the stream closes it.
    waits
        Whether the end of file before the first byte means that no writer has come yet (a FIFO).
    """

    def __init__(self, name: str, descriptor: int, *, waits: bool = False) -> None:
        self.name = name
        self._descriptor = descriptor
        self._waits = waits
        self._buffer = b""
        self._at = 0
        self._mark = 0
        self._dropped = 0
        self._ended = False
        self._inflater: _Inflater | None = None
        self._started = False
        about = os.fstat(descriptor)
        self._size = about.st_size if stat.S_ISREG(about.st_mode) else None
        self._raw_bytes = 0

    @property
    def progress(self) -> tuple[int, int] | None:
        """Bytes taken from the descriptor, before decompression, and bytes in all; None if it is no regular file."""
        return None if self._size is None else (self._raw_bytes, self._size)

    @property
    def tell_mark(self) -> int:
        """Position of the mark in the stream, in bytes after decompression."""
        return self._dropped + self._mark

    @property
    def exhausted(self) -> bool:
        """Whether all bytes up to the end of the stream were read."""
        return self._ended and self._at >= len(self._buffer)

    @property
    def cut_short(self) -> bool:
        """Whether the stream ended inside its compression."""
        return self._ended and self._inflater is not None and not self._inflater.complete

    @property
    def at_mark(self) -> bool:
        """Whether nothing was read since the mark."""
        return self._at == self._mark

    def mark(self) -> None:
        """Note the present position as the one to come back to."""
        self._mark = self._at

    def rewind(self) -> None:
        """Go back to the mark."""
        self._at = self._mark

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes, fewer only at the end of the stream.

        Raises
        ------
        StarvedError
            If they have not come yet.
        CaptureInputError
            If a record is impossibly long or the compression is damaged.
        """
        end = self._at + size
        if end > len(self._buffer):
            if end - self._mark > _MAX_RECORD_BYTES:
                raise CaptureInputError(f"{self.name}: damaged at byte {self.tell_mark}: an impossibly long record")
            while end > len(self._buffer) and not self._ended:
                self._fill()
                end = self._at + size
        data = self._buffer[self._at : end]
        self._at += len(data)
        return data

    def wait(self, timeout_s: float) -> None:
        """Wait until bytes may be there, at most ``timeout_s``."""
        if timeout_s <= 0.0:
            return
        if self._waits and not self._started:
            # A FIFO that never had a writer: some systems report it as readable all the time.
            time.sleep(min(timeout_s, _POLL_S))
        else:
            select.select([self._descriptor], [], [], timeout_s)

    def close(self) -> None:
        """Close the descriptor."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _fill(self) -> None:
        """Append a chunk to the buffer, dropping what lies before the mark."""
        chunk = self._inflater.read() if self._inflater is not None else b""
        while not chunk:
            raw = self._read_raw()
            if not raw:
                self._ended = True
                return
            if not self._started:
                self._started = True
                if raw[:2] == _GZIP_MAGIC:
                    self._inflater = _Inflater(self.name)
            if self._inflater is None:
                chunk = raw
            else:
                self._inflater.feed(raw)
                chunk = self._inflater.read()
        self._buffer = self._buffer[self._mark :] + chunk
        self._dropped += self._mark
        self._at -= self._mark
        self._mark = 0

    def _read_raw(self) -> bytes:
        """Return what the descriptor has; empty at its end."""
        if not select.select([self._descriptor], [], [], 0)[0]:
            raise StarvedError
        try:
            raw = os.read(self._descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            raise StarvedError from None
        except OSError as error:
            raise CaptureInputError(f"{self.name}: cannot be read ({error.strerror})") from error
        if not raw and self._waits and not self._started:
            raise StarvedError
        self._raw_bytes += len(raw)
        return raw


class _Inflater:
    """gzip, member after member, in bounded pieces: a small file that unpacks to a huge one costs no memory."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._input = b""
        self._member = zlib.decompressobj(31)
        self._fresh = True

    @property
    def complete(self) -> bool:
        """Whether the input ended with the end of a member."""
        return self._fresh or self._member.eof

    def feed(self, raw: bytes) -> None:
        """Take compressed bytes."""
        self._input += raw

    def read(self) -> bytes:
        """Return some decompressed bytes; empty when more input is needed."""
        while self._input or self._member.unconsumed_tail:
            if self._member.eof:
                self._member, self._fresh = zlib.decompressobj(31), True
            try:
                chunk = self._member.decompress(self._input, _CHUNK_BYTES)
            except zlib.error:
                raise CaptureInputError(f"{self._name}: the gzip compression is damaged") from None
            self._fresh = False
            self._input = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if chunk:
                return chunk
        return b""
