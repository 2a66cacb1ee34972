"""A SQLite file that never takes the agent down: damaged files move aside, failed writes are counted."""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from device_agent.errors import StoreError

Row = tuple[object, ...]
Synchronous = Literal["NORMAL", "FULL"]


class Database:
    """One file, one connection, one lock.

    Parameters
    ----------
    path
        The file; its directory is made.
    schema
        ``CREATE TABLE IF NOT EXISTS`` statements.
    synchronous
        ``FULL`` survives a power cut after every commit, ``NORMAL`` may lose the last commits but never corrupts.

    Attributes
    ----------
    failures
        Writes and reads that failed since the start, by reason slug.
    moved_aside
        Whether a damaged file was renamed at the start.

    Raises
    ------
    StoreError
        If the directory cannot be made or the file cannot be opened or written.
    """

    def __init__(self, path: Path, schema: str, *, synchronous: Synchronous = "NORMAL") -> None:
        self.path = path
        self.failures: dict[str, int] = {}
        self.moved_aside = False
        self._lock = threading.RLock()
        self._schema = schema
        self._synchronous = synchronous
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path.parent}: the state directory cannot be made: {error.strerror}") from None
        self._connection = self._open_or_start_over()

    @property
    def healthy(self) -> bool:
        """Whether the last write went through."""
        return not self._broken

    def write(self, sql: str, rows: Iterable[Sequence[object]]) -> bool:
        """Run one statement for every row in one transaction; ``False`` (counted) if the file refuses."""
        return self.transact(lambda connection: connection.executemany(sql, rows))

    def transact(self, work: Callable[[sqlite3.Connection], object]) -> bool:
        """Run ``work`` in one transaction; ``False`` (counted) if the file refuses."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                work(self._connection)
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                self._count(error)
                self._broken = True
                return False
            self._broken = False
            return True

    def read(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Return the rows of a query; none (counted) if the file cannot be read."""
        with self._lock:
            try:
                return self._connection.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                self._count(error)
                return []

    def close(self) -> None:
        """Close the file; the write-ahead log goes back into it."""
        with self._lock, suppress(sqlite3.Error):
            self._connection.close()

    def _count(self, error: sqlite3.Error) -> None:
        text = str(error)
        if "full" in text:
            reason = "store-disk-full"
        elif "readonly" in text:
            reason = "store-read-only"
        elif isinstance(error, sqlite3.OperationalError):
            reason = "store-failed"
        else:
            reason = "store-damaged"
        self.failures[reason] = self.failures.get(reason, 0) + 1

    def _open_or_start_over(self) -> sqlite3.Connection:
        self._broken = False
        try:
            return self._open()
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.path}: the store cannot be opened: {error}") from None
        except sqlite3.DatabaseError:
            self._move_aside()
        try:
            return self._open()
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: the store cannot be opened: {error}") from None

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5.0)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={self._synchronous}")
            # A quarter of a MiB of pages is plenty for these tables; the default of 2 MiB is per connection.
            connection.execute("PRAGMA cache_size=-256")
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != ("ok",):
                raise sqlite3.DatabaseError(f"quick check: {verdict}")
            connection.executescript(self._schema)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _move_aside(self) -> None:
        target = next(
            candidate
            for number in range(1, 1_000_000)
            if not (candidate := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists()
        )
        try:
            self.path.rename(target)
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{self.path}: damaged, and it cannot be moved aside: {error.strerror}") from None
        self.moved_aside = True
        self.failures["store-damaged-moved-aside"] = 1
