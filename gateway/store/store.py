"""All stores of one gateway."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gateway.store.alerts import AlertStore
from gateway.store.base import Database
from gateway.store.blobs import BlobStore
from gateway.store.devices import DeviceStore
from gateway.store.epoch import EpochStore
from gateway.store.families import FamilyStore
from gateway.store.models import ModelStore
from gateway.store.quarantine import QuarantineStore
from gateway.store.reports import ReportStore
from gateway.store.rounds import RoundStore
from gateway.store.signatures import SignatureStore


class Store:
    """The stores by kind, on one connection.

    Raises
    ------
    StoreError
        From any method of any of them: the disk does not do what it should.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self._database = Database(directory, read_only=read_only)
        self.devices = DeviceStore(self._database)
        self.signatures = SignatureStore(self._database)
        self.models = ModelStore(self._database)
        self.rounds = RoundStore(self._database)
        self.families = FamilyStore(self._database)
        self.reports = ReportStore(self._database)
        self.alerts = AlertStore(self._database)
        self.blobs = BlobStore(self._database)
        self.quarantine = QuarantineStore(self._database)
        self.epoch = EpochStore(self._database)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all writes inside one unit."""
        with self._database.transaction():
            yield

    def add_counts(self, counts: Mapping[str, int]) -> None:
        """Add to the counters of refusals."""
        for reason, count in counts.items():
            self._database.execute(
                "INSERT INTO counters VALUES (?, ?) ON CONFLICT (reason) DO UPDATE SET count = count + excluded.count",
                (reason, count),
            )

    def counts(self) -> dict[str, int]:
        """Return the counters of refusals by ``<message>.<reason>``."""
        rows = self._database.query("SELECT reason, count FROM counters ORDER BY reason")
        return {row["reason"]: row["count"] for row in rows}

    def close(self) -> None:
        """Close the connection."""
        self._database.close()
