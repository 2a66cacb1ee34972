"""Chunks of updates that are being pulled, one transfer a device."""

from contract.codec import decode, encode
from contract.messages import BlobOffer
from gateway.store.base import Database


class BlobStore:
    """Tables ``pulls`` and ``chunks``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pulls(self) -> dict[str, BlobOffer]:
        """Return what is being pulled, by device."""
        rows = self._database.query("SELECT device_id, message FROM pulls")
        return {row["device_id"]: decode(BlobOffer, row["message"]) for row in rows}

    def begin(self, device_id: str, offer: BlobOffer) -> None:
        """Remember an offer in place of the device's last one."""
        with self._database.transaction():
            self.forget(device_id)
            self._database.execute("INSERT INTO pulls VALUES (?, ?)", (device_id, encode(offer)))

    def add(self, device_id: str, number: int, data: bytes) -> None:
        """Keep a chunk."""
        self._database.execute("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?)", (device_id, number, data))

    def numbers(self, device_id: str) -> frozenset[int]:
        """Return which chunks of a device are here."""
        rows = self._database.query("SELECT number FROM chunks WHERE device_id = ?", (device_id,))
        return frozenset(row["number"] for row in rows)

    def whole(self, device_id: str) -> bytes:
        """Return all chunks of a device in order."""
        rows = self._database.query("SELECT data FROM chunks WHERE device_id = ? ORDER BY number", (device_id,))
        return b"".join(row["data"] for row in rows)

    def forget(self, device_id: str) -> None:
        """Drop what is here of a device."""
        self._database.execute("DELETE FROM chunks WHERE device_id = ?", (device_id,))
        self._database.execute("DELETE FROM pulls WHERE device_id = ?", (device_id,))
