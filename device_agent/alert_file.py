"""The alert file: one EVE JSON object a line, rotated once by size; a full disk is counted, never fatal."""

from collections.abc import Iterable
from pathlib import Path
from typing import IO

from device_agent.errors import StoreError


class AlertFile:
    """Appends lines and flushes after every call.

    Parameters
    ----------
    path
        The file; its directory is made.
    max_bytes
        At this size the file becomes ``<path>.1`` and a new one is begun.

    Attributes
    ----------
    lost
        Lines that could not be written.

    Raises
    ------
    StoreError
        If the file cannot be opened for appending.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.lost = 0
        self._path = path
        self._max_bytes = max_bytes
        self._file: IO[bytes] | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
        except OSError as error:
            raise StoreError(f"{path}: the alert file cannot be written: {error.strerror}") from None

    def append(self, lines: Iterable[bytes]) -> None:
        """Write lines (without line ends); those that cannot be written are counted."""
        rows = [line + b"\n" for line in lines]
        if not rows:
            return
        try:
            if self._file is None:
                self._file = self._path.open("ab")
            elif self._file.tell() >= self._max_bytes:
                self._file.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._file = self._path.open("ab")
            self._file.write(b"".join(rows))
            self._file.flush()
        except OSError:
            self.lost += len(rows)
            self._give_up()

    def close(self) -> None:
        """Close the file."""
        self._give_up()

    def _give_up(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:  # what the buffer held is counted already
                return
