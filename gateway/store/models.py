"""Models with their lineage, and the current head of each target."""

from dataclasses import dataclass

from contract.codec import decode, encode
from contract.messages import Release
from gateway.aggregation import ServerState
from gateway.store.base import Database


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model without its weights.

    Attributes
    ----------
    digest, role, family_id, round_number, parent
        As in the manifest.
    created_s
        Wall time, seconds since the epoch.
    published
        Whether the broker holds its release.
    """

    digest: str
    role: str
    family_id: str | None
    round_number: int
    parent: str | None
    created_s: float
    published: bool


class ModelStore:
    """Tables ``models`` and ``heads``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, release: Release, *, now_s: float) -> None:
        """Store a model that is not there yet."""
        m = release.manifest
        self._database.execute(
            "INSERT OR IGNORE INTO models VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
            (m.weights_digest, m.role, m.family_id, m.round_number, m.parent, now_s, encode(release)),
        )

    def release(self, digest: str) -> Release | None:
        """Return the signed release of a model, or ``None`` if it is unknown."""
        rows = self._database.query("SELECT release FROM models WHERE digest = ?", (digest,))
        return decode(Release, rows[0]["release"]) if rows else None

    def all(self) -> list[StoredModel]:
        """Return all models, oldest first."""
        rows = self._database.query(
            "SELECT digest, role, family_id, round_number, parent, created_s, published FROM models"
            " ORDER BY round_number, role DESC, family_id"
        )
        return [StoredModel(**{**dict(row), "published": bool(row["published"])}) for row in rows]

    def published(self) -> set[str]:
        """Return the digests whose releases the broker holds."""
        return {row["digest"] for row in self._database.query("SELECT digest FROM models WHERE published = 1")}

    def first_fallback(self, round_number: int) -> str | None:
        """Return the digest of the first fallback of this round or a later one, ``None`` before it."""
        rows = self._database.query(
            "SELECT digest FROM models WHERE role = 'fallback' AND round_number >= ? ORDER BY round_number LIMIT 1",
            (round_number,),
        )
        return str(rows[0]["digest"]) if rows else None

    def set_published(self, digest: str, *, published: bool) -> None:
        """Note that the release of a model was retained or cleared."""
        self._database.execute("UPDATE models SET published = ? WHERE digest = ?", (int(published), digest))

    def set_head(self, target: str, digest: str, state: ServerState) -> None:
        """Make a model the current one of a target and keep its optimiser state."""
        self._database.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?)", (target, digest, state.to_bytes()))

    def drop_head(self, target: str) -> None:
        """Forget the head of a target, such as that of a dissolved family; the model stays."""
        self._database.execute("DELETE FROM heads WHERE target = ?", (target,))

    def heads(self) -> dict[str, tuple[str, ServerState]]:
        """Return digest and optimiser state by target (``fallback`` or a family id)."""
        rows = self._database.query("SELECT target, digest, optimiser FROM heads")
        return {row["target"]: (row["digest"], ServerState.from_bytes(row["optimiser"])) for row in rows}
