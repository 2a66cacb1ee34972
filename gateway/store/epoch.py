"""Which life of the store this is; see ``contract.messages.Epoch``."""

from gateway.store.base import Database


class EpochStore:
    """Table ``epoch``: one row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def number(self, *, now_s: float) -> int:
        """Return the number of this life; a store that has none begins one."""
        known = self._known()
        return known if known is not None else self.renew(now_s=now_s)

    def renew(self, *, now_s: float) -> int:
        """Begin a new life and return its number, which is larger than the last one whatever the clock says."""
        number = max(int(now_s), (self._known() or 0) + 1)
        with self._database.transaction():
            self._database.execute("DELETE FROM epoch")
            self._database.execute("INSERT INTO epoch VALUES (?)", (number,))
        return number

    def _known(self) -> int | None:
        rows = self._database.query("SELECT number FROM epoch")
        return int(rows[0]["number"]) if rows else None
