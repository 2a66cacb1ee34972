"""Families, assignments, and every decision with its reason."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contract.codec import decode, encode
from contract.messages import Assignment
from gateway.families import Decision, Family
from gateway.grouping import Scaling
from gateway.store.base import Database


@dataclass(frozen=True, slots=True)
class StoredGrouping:
    """A search for families.

    Attributes
    ----------
    round_number, at_s
        After which round, and wall time in seconds since the epoch.
    accepted, reason, measures
        What came out, why, and the figures behind it.
    scaling
        How signatures were scaled.
    """

    round_number: int
    at_s: float
    accepted: bool
    reason: str
    measures: dict[str, float]
    scaling: Scaling


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A decision and when it fell (wall time, seconds since the epoch)."""

    at_s: float
    decision: Decision


class FamilyStore:
    """Tables ``groupings``, ``families``, ``assignments`` and ``decisions``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_grouping(self, grouping: StoredGrouping) -> None:
        """Store a search for families."""
        self._database.execute(
            "INSERT INTO groupings (round_number, at_s, accepted, reason, measures, middle, scale)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                grouping.round_number,
                grouping.at_s,
                int(grouping.accepted),
                grouping.reason,
                json.dumps(grouping.measures),
                grouping.scaling.middle.astype("<f8").tobytes(),
                grouping.scaling.scale.astype("<f8").tobytes(),
            ),
        )

    def last_grouping(self) -> StoredGrouping | None:
        """Return the last search, ``None`` before the first."""
        return self._grouping("SELECT * FROM groupings ORDER BY id DESC LIMIT 1")

    def last_believed_grouping(self) -> StoredGrouping | None:
        """Return the last search that found families, whose scaling places late joiners."""
        return self._grouping("SELECT * FROM groupings WHERE accepted = 1 ORDER BY id DESC LIMIT 1")

    def _grouping(self, sql: str) -> StoredGrouping | None:
        rows = self._database.query(sql)
        if not rows:
            return None
        row = rows[0]
        scaling = Scaling(np.frombuffer(row["middle"], "<f8"), np.frombuffer(row["scale"], "<f8"))
        return StoredGrouping(
            row["round_number"],
            row["at_s"],
            bool(row["accepted"]),
            row["reason"],
            json.loads(row["measures"]),
            scaling,
        )

    def replace_families(self, families: Sequence[Family]) -> None:
        """Make these the living families; the others stay as dissolved, so that no id is used twice."""
        with self._database.transaction():
            self._database.execute("UPDATE families SET live = 0")
            for f in families:
                self._database.execute(
                    "INSERT OR REPLACE INTO families VALUES (?, 1, ?, ?, ?, ?)",
                    (
                        f.family_id,
                        int(f.shared),
                        f.created_round,
                        f.radius,
                        f.centroid.astype("<f8").tobytes(),
                    ),
                )

    def living(self) -> list[Family]:
        """Return the living families by id."""
        rows = self._database.query("SELECT * FROM families WHERE live = 1 ORDER BY family_id")
        return [
            Family(
                family_id=row["family_id"],
                created_round=row["created_round"],
                radius=row["radius"],
                centroid=np.frombuffer(row["centroid"], "<f8"),
                shared=bool(row["shared"]),
            )
            for row in rows
        ]

    def last_number(self) -> int:
        """Return the highest family number ever given, 0 before the first."""
        rows = self._database.query("SELECT family_id FROM families")
        return max((int(row["family_id"].removeprefix("family-")) for row in rows), default=0)

    def save_assignment(self, assignment: Assignment) -> None:
        """Insert or replace the assignment of a device."""
        self._database.execute(
            "INSERT OR REPLACE INTO assignments VALUES (?, ?, ?, ?)",
            (assignment.device_id, assignment.version, assignment.family_id, encode(assignment)),
        )

    def assignments(self) -> list[Assignment]:
        """Return all assignments by device."""
        rows = self._database.query("SELECT message FROM assignments ORDER BY device_id")
        return [decode(Assignment, row["message"]) for row in rows]

    def add_decision(self, decision: Decision, *, now_s: float) -> None:
        """Store a decision."""
        self._database.execute(
            "INSERT INTO decisions (at_s, round_number, device_id, family_id, kind, reason) VALUES (?, ?, ?, ?, ?, ?)",
            (
                now_s,
                decision.round_number,
                decision.device_id,
                decision.family_id,
                decision.kind,
                decision.reason,
            ),
        )

    def decisions(self, device_id: str) -> list[StoredDecision]:
        """Return the decisions on a device, oldest first."""
        rows = self._database.query("SELECT * FROM decisions WHERE device_id = ? ORDER BY id", (device_id,))
        return [self._decision(row["at_s"], **row) for row in map(dict, rows)]

    def last_decisions(self) -> list[StoredDecision]:
        """Return the last decision on each device, by device."""
        rows = self._database.query(
            "SELECT * FROM decisions WHERE id IN (SELECT max(id) FROM decisions GROUP BY device_id) ORDER BY device_id"
        )
        return [self._decision(row["at_s"], **row) for row in map(dict, rows)]

    @staticmethod
    def _decision(
        moment_s: float,
        *,
        device_id: str,
        family_id: str | None,
        kind: str,
        reason: str,
        round_number: int,
        **_: object,
    ) -> StoredDecision:
        return StoredDecision(moment_s, Decision(device_id, family_id, kind, reason, round_number))
