"""Rounds, their tasks, the updates that came in and what became of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from contract.codec import decode, encode
from contract.messages import ModelUpdate, RoundTask
from gateway.rounds import TargetResult, target_key
from gateway.store.base import Database


@dataclass(frozen=True, slots=True)
class StoredRound:
    """A round for people.

    Attributes
    ----------
    number, state, reason
        State is ``open``, ``closed`` or ``expired``.
    opened_s, closed_s
        Wall time, seconds since the epoch.
    invited, updates
        Devices invited, updates counted.
    results
        One per target, empty while the round is open.
    """

    number: int
    state: str
    reason: str
    opened_s: float
    closed_s: float | None
    invited: int
    updates: int
    results: tuple[TargetResult, ...]


@dataclass(frozen=True, slots=True)
class StoredDelta:
    """An update's weights difference: little-endian float32 bytes and the rows behind it."""

    device_id: str
    rows: int
    delta: bytes


class RoundStore:
    """Tables ``rounds``, ``tasks``, ``updates`` and ``results``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, number: int, tasks: Sequence[RoundTask], *, now_s: float) -> None:
        """Store a new round with its tasks."""
        with self._database.transaction():
            self._database.execute("INSERT INTO rounds VALUES (?, 'open', ?, NULL, '')", (number, now_s))
            for task in tasks:
                self._database.execute("INSERT INTO tasks VALUES (?, ?, ?)", (number, task.device_id, encode(task)))

    def add_update(self, number: int, update: ModelUpdate, *, now_s: float) -> None:
        """Store an update; the same id a second time changes nothing."""
        values = (
            update.update_id,
            number,
            update.device_id,
            target_key(update.role, update.family_id),
            update.base,
            update.rows,
            update.loss_before,
            update.loss_after,
            update.train_seconds,
            now_s,
            update.delta,
        )
        self._database.execute("INSERT OR IGNORE INTO updates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def deltas(self, number: int, target: str) -> list[StoredDelta]:
        """Return the updates of a round for a target, by device."""
        rows = self._database.query(
            "SELECT device_id, rows, delta FROM updates WHERE number = ? AND target = ? ORDER BY device_id",
            (number, target),
        )
        return [StoredDelta(row["device_id"], row["rows"], row["delta"]) for row in rows]

    def close(self, number: int, *, state: str, reason: str, results: Sequence[TargetResult], now_s: float) -> None:
        """Close a round; the weights of its updates go, their measurements stay."""
        with self._database.transaction():
            self._database.execute(
                "UPDATE rounds SET state = ?, closed_s = ?, reason = ? WHERE number = ?",
                (state, now_s, reason, number),
            )
            self._database.execute("UPDATE updates SET delta = NULL WHERE number = ?", (number,))
            for r in results:
                self._database.execute(
                    "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)",
                    (number, r.target, r.digest, json.dumps(r.devices), r.reason, json.dumps(r.measurements)),
                )

    def last_number(self) -> int:
        """Return the number of the last round, 0 before the first."""
        number: int | None = self._database.query("SELECT max(number) AS number FROM rounds")[0]["number"]
        return number or 0

    def open_number(self) -> int | None:
        """Return the number of the open round, if there is one."""
        rows = self._database.query("SELECT number FROM rounds WHERE state = 'open'")
        return int(rows[0]["number"]) if rows else None

    def tasks(self, number: int) -> list[RoundTask]:
        """Return the tasks of a round by device."""
        rows = self._database.query("SELECT message FROM tasks WHERE number = ? ORDER BY device_id", (number,))
        return [decode(RoundTask, row["message"]) for row in rows]

    def update_ids(self, number: int) -> set[str]:
        """Return the ids of the updates counted in a round."""
        rows = self._database.query("SELECT update_id FROM updates WHERE number = ?", (number,))
        return {row["update_id"] for row in rows}

    def update_counts(self) -> dict[str, int]:
        """Return how many updates each device sent that were counted, by device."""
        rows = self._database.query("SELECT device_id, count(*) AS sent FROM updates GROUP BY device_id")
        return {row["device_id"]: row["sent"] for row in rows}

    def all(self) -> list[StoredRound]:
        """Return all rounds in order."""
        rows = self._database.query(
            "SELECT *, (SELECT count(*) FROM tasks t WHERE t.number = r.number) AS invited,"
            " (SELECT count(*) FROM updates u WHERE u.number = r.number) AS updates"
            " FROM rounds r ORDER BY number"
        )
        return [
            StoredRound(
                number=row["number"],
                state=row["state"],
                reason=row["reason"],
                opened_s=row["opened_s"],
                closed_s=row["closed_s"],
                invited=row["invited"],
                updates=row["updates"],
                results=self._results(row["number"]),
            )
            for row in rows
        ]

    def _results(self, number: int) -> tuple[TargetResult, ...]:
        rows = self._database.query("SELECT * FROM results WHERE number = ? ORDER BY target", (number,))
        return tuple(
            TargetResult(
                target=row["target"],
                digest=row["digest"],
                devices=tuple(json.loads(row["devices"])),
                reason=row["reason"],
                measurements=json.loads(row["measurements"]),
            )
            for row in rows
        )
