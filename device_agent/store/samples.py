"""The sample buffer on disk: it follows what the buffer admits and evicts, in batches."""

from pathlib import Path

import numpy as np

from contract.features import N_FEATURES, SCHEMA_ID
from device_agent.samples.buffer import Offered
from device_agent.samples.pool import Rows
from device_agent.samples.split import Split
from device_agent.store.database import Database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS samples (
  flow_id INTEGER NOT NULL,
  split INTEGER NOT NULL,
  y INTEGER NOT NULL,
  source INTEGER NOT NULL,
  start_us INTEGER NOT NULL,
  x BLOB NOT NULL,
  PRIMARY KEY (flow_id, split)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS schema (id TEXT PRIMARY KEY);
"""
_INSERT = "INSERT OR REPLACE INTO samples (flow_id, split, y, source, start_us, x) VALUES (?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM samples WHERE flow_id = ? AND split = ?"

_RELABEL = "UPDATE samples SET y = ?, source = ? WHERE flow_id & ? = ? AND split <> ?"
_OF_FLOW = (1 << 63) - 1
"""Bits of a row's id that name its flow; SQLite's integers have a sign, so an early row has a negative one."""


class SampleStore:
    """Rows that outlive the process. Rows of another feature schema are thrown away at opening.

    Parameters
    ----------
    path
        SQLite file.
    max_waiting
        Changes that may wait for :meth:`flush`; beyond it a disk that keeps refusing costs the oldest, counted.

    Attributes
    ----------
    lost
        Changes that never reached the disk.
    """

    def __init__(self, path: Path, *, max_waiting: int = 20_000) -> None:
        self.database = Database(path, _SCHEMA)
        self.lost = 0
        self._max_waiting = max_waiting
        self._waiting: list[tuple[str, tuple[object, ...]]] = []
        if self.database.read("SELECT id FROM schema") != [(SCHEMA_ID,)]:
            self.database.transact(
                lambda c: (
                    c.execute("DELETE FROM samples"),
                    c.execute("DELETE FROM schema"),
                    c.execute("INSERT INTO schema VALUES (?)", (SCHEMA_ID,)),
                )
            )

    def __len__(self) -> int:
        """Return changes that wait for :meth:`flush`."""
        return len(self._waiting)

    def follow(self, rows: Rows, offered: Offered) -> None:
        """Note what the buffer did with offered rows."""
        for split, flow_ids in offered.evicted.items():
            self._waiting += [(_DELETE, (flow_id, int(split))) for flow_id in flow_ids.view(np.int64).tolist()]
        kept = rows.select(offered.admitted)
        x = kept.x.astype("<f4", copy=False)
        columns = zip(
            kept.flow_id.view(np.int64).tolist(),
            offered.split[offered.admitted].tolist(),
            kept.y.tolist(),
            kept.source.tolist(),
            kept.start_us.tolist(),
            x,
            strict=True,
        )
        self._waiting += [(_INSERT, (*facts, row.tobytes())) for *facts, row in columns]
        excess = len(self._waiting) - self._max_waiting
        if excess > 0:
            self.lost += excess
            del self._waiting[:excess]

    def relabel(self, flow_id: int, label: int, source: int) -> None:
        """Note another label of a flow's training or validation rows."""
        self._waiting.append((_RELABEL, (label, source, _OF_FLOW, flow_id, int(Split.EXAM))))

    def flush(self) -> bool:
        """Write what waits in one transaction; ``False`` if the disk refuses, and then it waits on."""
        if not self._waiting:
            return True
        work = self._waiting
        done = self.database.transact(lambda c: [c.execute(sql, values) for sql, values in work])
        if done:
            self._waiting = []
        return done

    def load(self) -> dict[Split, Rows]:
        """Return all rows by split; damaged ones are left out."""
        found = self.database.read("SELECT flow_id, split, y, source, start_us, x FROM samples ORDER BY start_us")
        width = 4 * N_FEATURES
        rows = [row for row in found if isinstance(row[5], bytes) and len(row[5]) == width]
        table = np.array([row[:5] for row in rows], dtype=np.int64).reshape(-1, 5)
        blob = b"".join(row[5] for row in rows if isinstance(row[5], bytes))
        x = np.frombuffer(blob, dtype="<f4").astype(np.float32).reshape(-1, N_FEATURES)
        everything = Rows(
            x=x,
            y=table[:, 2].astype(np.int32),
            start_us=table[:, 4],
            flow_id=table[:, 0].astype(np.uint64),
            source=table[:, 3].astype(np.uint8),
        )
        return {split: everything.select(table[:, 1] == split) for split in Split}

    def close(self) -> None:
        """Write what waits and close the file."""
        self.flush()
        self.database.close()
