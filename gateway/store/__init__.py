"""The gateway's state in SQLite: one class per kind of thing, all on one connection."""

from gateway.store.base import FILE_NAME, Database
from gateway.store.devices import DeviceStore
from gateway.store.families import FamilyStore
from gateway.store.models import ModelStore, StoredModel
from gateway.store.reports import ReportStore
from gateway.store.rounds import RoundStore, StoredRound
from gateway.store.signatures import SignatureStore
from gateway.store.store import Store

__all__ = [
    "FILE_NAME",
    "Database",
    "DeviceStore",
    "FamilyStore",
    "ModelStore",
    "ReportStore",
    "RoundStore",
    "SignatureStore",
    "Store",
    "StoredModel",
    "StoredRound",
]
