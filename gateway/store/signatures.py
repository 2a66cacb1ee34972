"""The last traffic signature of each device."""

from contract.codec import decode, encode
from contract.messages import Signature
from gateway.store.base import Database


class SignatureStore:
    """Table ``signatures``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, signature: Signature, *, now_s: float) -> None:
        """Insert or replace the signature of a device."""
        self._database.execute(
            "INSERT OR REPLACE INTO signatures VALUES (?, ?, ?, ?)",
            (signature.device_id, signature.sequence, now_s, encode(signature)),
        )

    def all(self) -> list[Signature]:
        """Return all signatures by device."""
        rows = self._database.query("SELECT message FROM signatures ORDER BY device_id")
        return [decode(Signature, row["message"]) for row in rows]
