"""The connection: opening, schema version, transactions, and errors as one line."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import StoreError

FILE_NAME = "gateway.sqlite3"
SCHEMA_VERSION = 1
Value = str | int | float | bytes | None

_SCHEMA = """
CREATE TABLE devices (
    device_id TEXT PRIMARY KEY, session TEXT NOT NULL, state TEXT NOT NULL, state_reason TEXT NOT NULL,
    online INTEGER NOT NULL, refusal TEXT, board TEXT NOT NULL, engine TEXT NOT NULL, agent_version TEXT NOT NULL,
    train_rows INTEGER NOT NULL, last_seen_s REAL NOT NULL, active BLOB) STRICT;
CREATE TABLE signatures (
    device_id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, received_s REAL NOT NULL, message BLOB NOT NULL) STRICT;
CREATE TABLE models (
    digest TEXT PRIMARY KEY, role TEXT NOT NULL, family_id TEXT, round_number INTEGER NOT NULL, parent TEXT,
    created_s REAL NOT NULL, published INTEGER NOT NULL, release BLOB NOT NULL) STRICT;
CREATE TABLE heads (
    target TEXT PRIMARY KEY, digest TEXT NOT NULL REFERENCES models, optimiser BLOB NOT NULL) STRICT;
CREATE TABLE rounds (
    number INTEGER PRIMARY KEY, state TEXT NOT NULL, opened_s REAL NOT NULL, closed_s REAL,
    reason TEXT NOT NULL) STRICT;
CREATE TABLE tasks (
    number INTEGER NOT NULL REFERENCES rounds, device_id TEXT NOT NULL, message BLOB NOT NULL,
    PRIMARY KEY (number, device_id)) STRICT;
CREATE TABLE updates (
    update_id TEXT PRIMARY KEY, number INTEGER NOT NULL REFERENCES rounds, device_id TEXT NOT NULL,
    target TEXT NOT NULL, base TEXT NOT NULL, rows INTEGER NOT NULL, loss_before REAL, loss_after REAL,
    train_seconds REAL NOT NULL, received_s REAL NOT NULL, delta BLOB) STRICT;
CREATE INDEX updates_by_round ON updates (number);
CREATE TABLE results (
    number INTEGER NOT NULL REFERENCES rounds, target TEXT NOT NULL, digest TEXT, devices TEXT NOT NULL,
    reason TEXT NOT NULL, measurements TEXT NOT NULL, PRIMARY KEY (number, target)) STRICT;
CREATE TABLE groupings (
    id INTEGER PRIMARY KEY, round_number INTEGER NOT NULL, at_s REAL NOT NULL, accepted INTEGER NOT NULL,
    reason TEXT NOT NULL, measures TEXT NOT NULL, middle BLOB NOT NULL, scale BLOB NOT NULL) STRICT;
CREATE TABLE families (
    family_id TEXT PRIMARY KEY, live INTEGER NOT NULL, shared INTEGER NOT NULL, created_round INTEGER NOT NULL,
    radius REAL NOT NULL, centroid BLOB NOT NULL) STRICT;
CREATE TABLE assignments (
    device_id TEXT PRIMARY KEY, version INTEGER NOT NULL, family_id TEXT, message BLOB NOT NULL) STRICT;
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY, at_s REAL NOT NULL, round_number INTEGER NOT NULL, device_id TEXT NOT NULL,
    family_id TEXT, kind TEXT NOT NULL, reason TEXT NOT NULL) STRICT;
CREATE INDEX decisions_by_device ON decisions (device_id, id);
CREATE TABLE reports (
    device_id TEXT NOT NULL, run_id TEXT NOT NULL, received_s REAL NOT NULL, message BLOB NOT NULL,
    PRIMARY KEY (device_id, run_id)) STRICT;
CREATE TABLE counters (reason TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT;
"""
# Added later; a store of an earlier release gets them when it is opened for writing.
_ADDITIONS = """
CREATE TABLE IF NOT EXISTS pulls (device_id TEXT PRIMARY KEY, message BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS chunks (
    device_id TEXT NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (device_id, number)) STRICT;
CREATE TABLE IF NOT EXISTS epoch (number INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS quarantine (
    device_id TEXT PRIMARY KEY, reason TEXT NOT NULL, since_s REAL NOT NULL, until_s REAL NOT NULL,
    times INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS alerts (
    id INTEGER PRIMARY KEY, device_id TEXT NOT NULL, flow_id INTEGER NOT NULL, at TEXT NOT NULL,
    received_s REAL NOT NULL, message BLOB NOT NULL, UNIQUE (device_id, flow_id, at)) STRICT;
CREATE TABLE IF NOT EXISTS verdicts (
    id INTEGER PRIMARY KEY, device_id TEXT NOT NULL, flow_id INTEGER NOT NULL, label TEXT NOT NULL,
    at_s REAL NOT NULL, sent_s REAL) STRICT;
CREATE INDEX IF NOT EXISTS verdicts_by_flow ON verdicts (device_id, flow_id);
"""


class Database:
    """One SQLite connection in WAL mode; whatever goes wrong is a ``StoreError`` with the file in it.

    Parameters
    ----------
    directory
        Holds the file; made if it is missing, unless the connection only reads.
    read_only
        Look at the state of a gateway that may be running.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self._path = directory / FILE_NAME
        if read_only and not self._path.exists():
            raise StoreError(f"{self._path}: no gateway has stored anything there yet")
        with self._errors():
            if not read_only:
                directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            mode = "ro" if read_only else "rwc"
            self._connection = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=5.0
            )
        try:
            with self._errors():
                self._prepare(read_only=read_only)
        except StoreError:
            self._connection.close()
            raise

    def execute(self, sql: str, values: Sequence[Value] = ()) -> int:
        """Run one statement and return how many rows it changed."""
        with self._errors():
            return self._connection.execute(sql, values).rowcount

    def query(self, sql: str, values: Sequence[Value] = ()) -> list[sqlite3.Row]:
        """Return all rows of a query."""
        with self._errors():
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the statements inside one unit; an inner transaction joins the outer one."""
        if self._connection.in_transaction:
            yield
            return
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    def close(self) -> None:
        """Close the connection."""
        with self._errors():
            self._connection.close()

    def _prepare(self, *, read_only: bool) -> None:
        connection = self._connection
        connection.row_factory = sqlite3.Row
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise StoreError(
                f"{self._path}: schema version {version}, this program knows {SCHEMA_VERSION}; "
                "use the matching release or another store.dir"
            )
        if read_only:
            if version == 0:
                raise StoreError(f"{self._path}: no gateway has stored anything there yet")
            return
        connection.execute("PRAGMA journal_mode = WAL")
        # A receipt says "stored": it must hold after a power cut as well.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if version == 0:
            connection.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
        connection.executescript(_ADDITIONS)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._path}: {error}") from error
