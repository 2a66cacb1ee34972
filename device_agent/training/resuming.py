"""What is kept of a running job, so that a new process can go on with the same rows from the last saved epoch."""

import hashlib
from dataclasses import dataclass
from typing import Any

import cbor2
import numpy as np
import numpy.typing as npt

from device_agent.samples.pool import Rows
from device_agent.training.checkpoint import Checkpoint, checkpoint_from_message, checkpoint_to_message


@dataclass(frozen=True, slots=True, eq=False)
class SavedJob:
    """A job that was not finished.

    Attributes
    ----------
    flow_ids
        uint64: its rows, in its order.
    rows_digest
        Of values and labels of the rows; other rows would give another result than an uninterrupted training.
    checkpoint
        How far it got.
    """

    flow_ids: npt.NDArray[np.uint64]
    rows_digest: bytes
    checkpoint: Checkpoint


def digest_of(rows: Rows) -> bytes:
    """Return a digest of values and labels."""
    digest = hashlib.sha256(np.ascontiguousarray(rows.x, dtype="<f4").data)
    digest.update(np.ascontiguousarray(rows.y, dtype="<i4").data)
    return digest.digest()


def in_order(rows: Rows) -> Rows:
    """Return rows by time and flow: the order in which a buffer holds them changes with a restart."""
    return rows.select(np.lexsort((rows.flow_id, rows.start_us)))


def same_rows(saved: SavedJob, held: Rows) -> Rows | None:
    """Return the rows of a saved job out of those that are held now; ``None`` if one is gone or has changed."""
    order = np.argsort(held.flow_id, kind="stable")
    at = np.searchsorted(held.flow_id, saved.flow_ids, sorter=order)
    if not len(held) or (at >= len(held)).any():
        return None
    rows = held.select(order[at])
    fits = np.array_equal(rows.flow_id, saved.flow_ids) and digest_of(rows) == saved.rows_digest
    return rows if fits else None


def saved_to_bytes(saved: SavedJob) -> bytes:
    """Return a saved job for the disk, behind a digest of its own."""
    body = cbor2.dumps(
        {
            "flow_ids": saved.flow_ids.astype("<u8", copy=False).tobytes(),
            "rows_digest": saved.rows_digest,
            **checkpoint_to_message(saved.checkpoint),
        }
    )
    return hashlib.sha256(body).digest() + body


def saved_from_bytes(data: bytes) -> SavedJob | None:
    """Return a saved job, ``None`` for bytes that are damaged."""
    body = data[32:]
    if hashlib.sha256(body).digest() != data[:32]:
        return None
    try:
        message: dict[str, Any] = cbor2.loads(body)
        flow_ids = np.frombuffer(message["flow_ids"], dtype="<u8").astype(np.uint64)
        return SavedJob(flow_ids, message["rows_digest"], checkpoint_from_message(message))
    except (cbor2.CBORDecodeError, ValueError, TypeError, KeyError):
        return None
