"""Devices that are not listened to for a while."""

from dataclasses import dataclass

from gateway.store.base import Database


@dataclass(frozen=True, slots=True)
class Confined:
    """A device in quarantine: why, since and until when (seconds since the epoch), and for the how manieth time."""

    device_id: str
    reason: str
    since_s: float
    until_s: float
    times: int


class QuarantineStore:
    """Table ``quarantine``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, confined: Confined) -> None:
        """Insert or replace."""
        values = (confined.device_id, confined.reason, confined.since_s, confined.until_s, confined.times)
        self._database.execute("INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?, ?)", values)

    def all(self) -> list[Confined]:
        """Return all that were ever confined, by device id."""
        rows = self._database.query("SELECT * FROM quarantine ORDER BY device_id")
        return [Confined(r["device_id"], r["reason"], r["since_s"], r["until_s"], r["times"]) for r in rows]
