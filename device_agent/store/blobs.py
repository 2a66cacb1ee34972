"""Chunks of what the device is pulling; what came before a power cut is not asked for again."""

from pathlib import Path

from contract.codec import decode, encode
from contract.errors import ContractError
from contract.messages import BlobOffer
from device_agent.store.database import Database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS offers (digest TEXT PRIMARY KEY, message BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS chunks (
  digest TEXT NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (digest, number)
);
"""


class BlobStore:
    """Offers and their chunks in one SQLite file."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path, _SCHEMA)

    def offers(self) -> list[BlobOffer]:
        """Return what is being pulled."""
        found: list[BlobOffer] = []
        for (data,) in self.database.read("SELECT message FROM offers"):
            try:
                found.append(decode(BlobOffer, data if isinstance(data, bytes) else b""))
            except ContractError:
                continue
        return found

    def begin(self, offer: BlobOffer) -> bool:
        """Remember an offer; ``False`` if the disk refuses."""
        sql = "INSERT OR REPLACE INTO offers VALUES (?, ?)"
        return self.database.write(sql, [(offer.digest, encode(offer))])

    def add(self, digest: str, number: int, data: bytes) -> bool:
        """Keep a chunk; ``False`` if the disk refuses."""
        return self.database.write("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?)", [(digest, number, data)])

    def numbers(self, digest: str) -> frozenset[int]:
        """Return which chunks are here."""
        rows = self.database.read("SELECT number FROM chunks WHERE digest = ?", (digest,))
        return frozenset(int(str(number)) for (number,) in rows)

    def whole(self, digest: str) -> bytes:
        """Return all chunks in order."""
        rows = self.database.read("SELECT data FROM chunks WHERE digest = ? ORDER BY number", (digest,))
        return b"".join(data for (data,) in rows if isinstance(data, bytes))

    def forget(self, digest: str) -> None:
        """Drop an offer and its chunks."""
        self.database.write("DELETE FROM chunks WHERE digest = ?", [(digest,)])
        self.database.write("DELETE FROM offers WHERE digest = ?", [(digest,)])

    def close(self) -> None:
        """Close the file."""
        self.database.close()
