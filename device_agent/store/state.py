"""Held models and small state: which model is active, what was trained, how far the signature counter is."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from contract.errors import WeightsError
from contract.model import ReleaseManifest, weights_digest, weights_from_bytes, weights_to_bytes
from device_agent.store.database import Database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS models (digest TEXT PRIMARY KEY, manifest TEXT NOT NULL, weights BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS unfinished (id INTEGER PRIMARY KEY, job TEXT NOT NULL UNIQUE, body BLOB NOT NULL);
"""
_MAX_UNFINISHED = 4


@dataclass(frozen=True, slots=True, eq=False)
class HeldModel:
    """A model on this device: its manifest, and weights of shape ``(P,)``, float32, that nobody writes to."""

    manifest: ReleaseManifest
    weights: npt.NDArray[np.float32]

    @property
    def digest(self) -> str:
        """Id of the model."""
        return self.manifest.weights_digest


class StateStore:
    """Models by digest and named JSON facts.

    Parameters
    ----------
    path
        SQLite file.

    Attributes
    ----------
    damaged_models
        Models that were left out at loading because their bytes do not fit their digest any more.
    """

    def __init__(self, path: Path) -> None:
        self.database = Database(path, _SCHEMA)
        self.damaged_models = 0

    def load_models(self) -> dict[str, HeldModel]:
        """Return all models whose bytes still fit their digest, by digest."""
        models: dict[str, HeldModel] = {}
        for digest, text, blob in self.database.read("SELECT digest, manifest, weights FROM models"):
            try:
                manifest = ReleaseManifest.model_validate_json(str(text))
                data = blob if isinstance(blob, bytes) else b""
                weights = weights_from_bytes(data, n_parameters=manifest.n_parameters)
            except (ValidationError, WeightsError):
                self.damaged_models += 1
                continue
            if weights_digest(weights) != digest or manifest.weights_digest != digest:
                self.damaged_models += 1
                continue
            weights.flags.writeable = False
            models[str(digest)] = HeldModel(manifest, weights)
        return models

    def keep_model(self, model: HeldModel) -> bool:
        """Keep a model; ``False`` if the disk refuses."""
        row = (model.digest, model.manifest.model_dump_json(), weights_to_bytes(model.weights))
        return self.database.write("INSERT OR REPLACE INTO models VALUES (?, ?, ?)", [row])

    def drop_model(self, digest: str) -> bool:
        """Forget a model; ``False`` if the disk refuses."""
        return self.database.write("DELETE FROM models WHERE digest = ?", [(digest,)])

    def keep_unfinished(self, job: str, body: bytes) -> bool:
        """Keep how far a training got, in place of what was kept of it before; ``False`` if the disk refuses.

        Of other trainings the newest few stay: those of a task whose turn is over are never asked for again.
        """
        return self.database.transact(
            lambda c: (
                c.execute("INSERT OR REPLACE INTO unfinished (job, body) VALUES (?, ?)", (job, body)),
                c.execute(
                    "DELETE FROM unfinished WHERE id NOT IN (SELECT id FROM unfinished ORDER BY id DESC LIMIT ?)",
                    (_MAX_UNFINISHED,),
                ),
            )
        )

    def unfinished(self, job: str) -> bytes | None:
        """Return how far a training got, ``None`` if nothing is kept of it."""
        rows = self.database.read("SELECT body FROM unfinished WHERE job = ?", (job,))
        return rows[0][0] if rows and isinstance(rows[0][0], bytes) else None

    def drop_unfinished(self, job: str) -> bool:
        """Forget how far a training got; ``False`` if the disk refuses."""
        return self.database.write("DELETE FROM unfinished WHERE job = ?", [(job,)])

    def get(self, name: str) -> object:
        """Return a fact, ``None`` if it was never put or cannot be read."""
        rows = self.database.read("SELECT value FROM facts WHERE name = ?", (name,))
        try:
            return json.loads(str(rows[0][0])) if rows else None
        except ValueError:
            return None

    def put(self, name: str, value: object) -> bool:
        """Keep a fact (JSON-able); ``False`` if the disk refuses."""
        return self.database.write("INSERT OR REPLACE INTO facts VALUES (?, ?)", [(name, json.dumps(value))])

    def close(self) -> None:
        """Close the file."""
        self.database.close()
