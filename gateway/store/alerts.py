"""The newest alerts of the devices, and what operators said about them."""

from collections.abc import Sequence
from dataclasses import dataclass

from contract.codec import decode, encode
from contract.messages import EveAlert, Verdict
from gateway.store.base import Database

MAX_ALERTS = 5_000
"""Alerts that are kept; the devices' own EVE files hold all of theirs."""


@dataclass(frozen=True, slots=True)
class StoredAlert:
    """An alert and its verdict.

    Attributes
    ----------
    alert
        As the device sent it.
    received_s
        Wall time, seconds since the epoch.
    verdict
        Class name that an operator gave it last, ``None`` before.
    """

    alert: EveAlert
    received_s: float
    verdict: str | None


class AlertStore:
    """Tables ``alerts`` and ``verdicts``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, alerts: Sequence[EveAlert], *, now_s: float) -> None:
        """Store alerts; those that came before are left alone, and the oldest make room."""
        for alert in alerts:
            self._database.execute(
                "INSERT OR IGNORE INTO alerts (device_id, flow_id, at, received_s, message) VALUES (?, ?, ?, ?, ?)",
                (alert.kinwatch.device_id, alert.flow_id, alert.timestamp, now_s, encode(alert)),
            )
        self._database.execute("DELETE FROM alerts WHERE id <= (SELECT MAX(id) FROM alerts) - ?", (MAX_ALERTS,))

    def recent(self, *, device_id: str | None = None, limit: int = 50) -> list[StoredAlert]:
        """Return the newest alerts, newest first, of one device or of all."""
        rows = self._database.query(
            "SELECT a.message, a.received_s, (SELECT v.label FROM verdicts v WHERE v.device_id = a.device_id AND"
            " v.flow_id = a.flow_id ORDER BY v.id DESC LIMIT 1) AS verdict FROM alerts a"
            " WHERE ? IS NULL OR a.device_id = ? ORDER BY a.id DESC LIMIT ?",
            (device_id, device_id, limit),
        )
        return [StoredAlert(decode(EveAlert, r["message"]), r["received_s"], r["verdict"]) for r in rows]

    def of_flow(self, device_id: str, flow_id: int) -> EveAlert | None:
        """Return the newest alert on a flow of a device, ``None`` without one."""
        rows = self._database.query(
            "SELECT message FROM alerts WHERE device_id = ? AND flow_id = ? ORDER BY id DESC LIMIT 1",
            (device_id, flow_id),
        )
        return decode(EveAlert, rows[0]["message"]) if rows else None

    def add_verdict(self, verdict: Verdict, *, now_s: float) -> None:
        """Store what an operator said, to be sent."""
        self._database.execute(
            "INSERT INTO verdicts (device_id, flow_id, label, at_s, sent_s) VALUES (?, ?, ?, ?, NULL)",
            (verdict.device_id, verdict.flow_id, verdict.label, now_s),
        )

    def unsent_verdicts(self) -> list[tuple[int, Verdict]]:
        """Return the verdicts that wait, oldest first, each with its number."""
        rows = self._database.query("SELECT * FROM verdicts WHERE sent_s IS NULL ORDER BY id")
        return [(r["id"], Verdict(device_id=r["device_id"], flow_id=r["flow_id"], label=r["label"])) for r in rows]

    def verdict_sent(self, number: int, *, now_s: float) -> None:
        """Note that a verdict went out."""
        self._database.execute("UPDATE verdicts SET sent_s = ? WHERE id = ?", (now_s, number))
