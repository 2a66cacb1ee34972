"""Evaluation reports of the devices, one per run."""

from contract.codec import decode, encode
from contract.messages import EvaluationReport
from gateway.store.base import Database


class ReportStore:
    """Table ``reports``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, report: EvaluationReport, *, now_s: float) -> None:
        """Insert or replace the report of a device for a run."""
        self._database.execute(
            "INSERT OR REPLACE INTO reports VALUES (?, ?, ?, ?)",
            (report.device_id, report.run_id, now_s, encode(report)),
        )

    def all(self) -> list[EvaluationReport]:
        """Return all reports by run and device."""
        rows = self._database.query("SELECT message FROM reports ORDER BY run_id, device_id")
        return [decode(EvaluationReport, row["message"]) for row in rows]
