"""Devices as last seen."""

from dataclasses import dataclass

from contract.codec import decode, encode
from contract.messages import ActiveModel
from gateway.registry import Device
from gateway.store.base import Database


@dataclass(frozen=True, slots=True)
class StoredDevice:
    """A device with what only people look at.

    Attributes
    ----------
    device
        Its state; ``last_seen`` is not stored, since a monotonic clock ends with its process.
    last_seen_s
        Wall time of the last change, seconds since the epoch; for display alone.
    active
        The model it reports to use.
    """

    device: Device
    last_seen_s: float
    active: ActiveModel | None


class DeviceStore:
    """Table ``devices``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, device: Device, *, now_s: float) -> None:
        """Insert or replace a device; its reported model stays."""
        values = (
            device.device_id,
            device.session,
            device.state,
            device.state_reason,
            int(device.online),
            device.refusal,
            device.board,
            device.engine,
            device.agent_version,
            device.train_rows,
            now_s,
        )
        self._database.execute(
            "INSERT INTO devices VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL) ON CONFLICT (device_id) DO UPDATE SET"
            " session = excluded.session, state = excluded.state, state_reason = excluded.state_reason,"
            " online = excluded.online, refusal = excluded.refusal, board = excluded.board, engine = excluded.engine,"
            " agent_version = excluded.agent_version, train_rows = excluded.train_rows,"
            " last_seen_s = excluded.last_seen_s",
            values,
        )

    def save_active(self, active: ActiveModel) -> None:
        """Store which model a known device reports to use."""
        self._database.execute("UPDATE devices SET active = ? WHERE device_id = ?", (encode(active), active.device_id))

    def all(self) -> list[StoredDevice]:
        """Return all devices by id."""
        rows = self._database.query("SELECT * FROM devices ORDER BY device_id")
        return [
            StoredDevice(
                Device(
                    device_id=row["device_id"],
                    session=row["session"],
                    state=row["state"],
                    state_reason=row["state_reason"],
                    online=bool(row["online"]),
                    refusal=row["refusal"],
                    board=row["board"],
                    engine=row["engine"],
                    agent_version=row["agent_version"],
                    train_rows=row["train_rows"],
                ),
                row["last_seen_s"],
                None if row["active"] is None else decode(ActiveModel, row["active"]),
            )
            for row in rows
        ]
