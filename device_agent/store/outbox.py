"""Messages that wait for the gateway or the broker, each under its idempotency key.

A model update stays until a receipt of the gateway names it; an alert or a report until the broker has it. What is
put here before a crash is sent after it, with the same key and the same bytes.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from device_agent.store.database import Database

Kind = Literal["update", "report", "alert"]
"""By falling worth: the first to be given up are alerts, which are in the alert file as well."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL,
  topic TEXT NOT NULL,
  payload BLOB NOT NULL
);
"""
_GIVE_UP_ORDER: tuple[Kind, ...] = ("alert", "report", "update")


@dataclass(frozen=True, slots=True)
class Waiting:
    """One message.

    Attributes
    ----------
    key
        Idempotency key; the update id for updates.
    kind
        What it is, and with that what ends its life here.
    topic, payload
        As published, QoS 1.
    """

    key: str
    kind: Kind
    topic: str
    payload: bytes


class Outbox:
    """The messages, bounded by number and bytes.

    Parameters
    ----------
    path
        SQLite file.
    max_messages, max_bytes
        Bounds; beyond them the oldest alerts go first, then reports, then updates.

    Attributes
    ----------
    dropped
        Messages given up, by kind.
    """

    def __init__(self, path: Path, *, max_messages: int = 2_000, max_bytes: int = 33_554_432) -> None:
        self.database = Database(path, _SCHEMA, synchronous="FULL")
        self.dropped: dict[Kind, int] = {}
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        # Keys and sizes in order of arrival; the payloads stay on disk.
        self._sizes: dict[Kind, dict[str, int]] = {kind: {} for kind in _GIVE_UP_ORDER}
        # What the disk refused lives as long as the process does.
        self._volatile: dict[str, Waiting] = {}
        self._open: Waiting | None = None
        for key, kind, size in self.database.read("SELECT key, kind, length(payload) FROM outbox ORDER BY sequence"):
            self._sizes[_kind(str(kind))][str(key)] = int(str(size))

    def __len__(self) -> int:
        return sum(len(keys) for keys in self._sizes.values())

    def put(self, *messages: Waiting) -> None:
        """Keep messages; a key that is already here is left as it is."""
        with self._lock:
            new = {m.key: m for m in messages if m.key not in self._sizes[m.kind]}
            if not new:
                return
            rows = [(m.key, m.kind, m.topic, m.payload) for m in new.values()]
            if not self.database.write(
                "INSERT OR IGNORE INTO outbox (key, kind, topic, payload) VALUES (?, ?, ?, ?)", rows
            ):
                self._volatile.update(new)
            for message in new.values():
                self._sizes[message.kind][message.key] = len(message.payload)
            self._keep_bounds()

    def settle(self, *keys: str) -> int:
        """Forget messages that reached their end; return how many were here."""
        with self._lock:
            known = [key for key in dict.fromkeys(keys) if any(key in sizes for sizes in self._sizes.values())]
            if known:
                self._forget(known)
            return len(known)

    def keys(self, kind: Kind) -> tuple[str, ...]:
        """Return the keys of one kind, oldest first."""
        with self._lock:
            return tuple(self._sizes[kind])

    def pending(self, *, without: frozenset[str] = frozenset(), limit: int = 16) -> list[Waiting]:
        """Return messages to send: updates first, then reports, then alerts, oldest first.

        Parameters
        ----------
        without
            Keys that are on their way.
        limit
            At most this many.
        """
        with self._lock:
            wanted = [k for kind in reversed(_GIVE_UP_ORDER) for k in self._sizes[kind] if k not in without][:limit]
            return [message for key in wanted if (message := self._load(key)) is not None]

    def part(self, key: str, offset: int, length: int) -> bytes:
        """Return a piece of a payload; empty if the message is gone.

        The payload stays in memory until it is settled or another one is asked for: SQLite would read all of it from
        the disk for every piece.
        """
        with self._lock:
            if self._open is None or self._open.key != key:
                self._open = self._load(key)
            return b"" if self._open is None else self._open.payload[offset : offset + length]

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def _load(self, key: str) -> Waiting | None:
        if key in self._volatile:
            return self._volatile[key]
        rows = self.database.read("SELECT kind, topic, payload FROM outbox WHERE key = ?", (key,))
        if not rows:
            return None
        kind, topic, payload = rows[0]
        return Waiting(key, _kind(str(kind)), str(topic), bytes(payload) if isinstance(payload, bytes) else b"")

    def _forget(self, keys: list[str]) -> None:
        self.database.write("DELETE FROM outbox WHERE key = ?", [(key,) for key in keys])
        if self._open is not None and self._open.key in keys:
            self._open = None
        for key in keys:
            self._volatile.pop(key, None)
            for sizes in self._sizes.values():
                sizes.pop(key, None)

    def _keep_bounds(self) -> None:
        total = sum(sum(sizes.values()) for sizes in self._sizes.values())
        given_up: list[str] = []
        for kind in _GIVE_UP_ORDER:
            for key, size in self._sizes[kind].items():
                if len(self) - len(given_up) <= self._max_messages and total <= self._max_bytes:
                    break
                given_up.append(key)
                total -= size
                self.dropped[kind] = self.dropped.get(kind, 0) + 1
        if given_up:
            self._forget(given_up)


def _kind(text: str) -> Kind:
    return next((kind for kind in _GIVE_UP_ORDER if kind == text), "alert")
