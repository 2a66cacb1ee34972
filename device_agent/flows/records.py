"""The two column batches that travel along the detection line: packets in, flow records out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, unique
from ipaddress import IPv4Address, IPv6Address

import numpy as np
import numpy.typing as npt

from contract.features import N_FEATURES

IDENTITY = np.dtype(
    [
        ("flow_id", "u8"),
        ("ts_start_us", "i8"),
        ("ts_end_us", "i8"),
        ("src_ip", "u1", (16,)),
        ("dst_ip", "u1", (16,)),
        ("ip_version", "u1"),
        ("src_port", "u2"),
        ("dst_port", "u2"),
        ("proto", "u1"),
        ("vlan", "u2"),
        ("end_reason", "u1"),
        ("part_index", "u2"),
    ]
)
"""What a flow is, as opposed to how it behaves; nothing here may enter a model.

``flow_id`` is a hash below 2**63 of the flow key and ``ts_start_us``, see ``ids``: the same packets give the same id
everywhere.
Times are microseconds since the epoch on the clock of the packets. Addresses are 16 bytes, IPv4 as ``::ffff:a.b.c.d``.
``src`` is the initiator, the forward side. Ports are 0 for all but TCP and UDP and for later fragments. ``vlan`` is the
id of the innermost tag, 0 without one. ``part_index`` counts the pieces into which the active timeout cut a flow.
"""

V4_PREFIX = b"\x00" * 10 + b"\xff\xff"
"""First 12 bytes of an IPv4 address in its 16-byte form."""


@unique
class EndReason(IntEnum):
    """Why there is a flow record.

    Attributes
    ----------
    EARLY
        The flow goes on; this record tells what was seen of it until then. Its closing record has the same id and
        counts the same packets again.
    """

    IDLE = 0
    ACTIVE = 1
    TCP_END = 2
    EVICT = 3
    FLUSH = 4
    EARLY = 5


@dataclass(frozen=True, slots=True, eq=False)
class PacketBatch:
    """Packets of one link type, in the order of capture.

    Attributes
    ----------
    data
        uint8, the captured bytes of all packets, one after the other.
    offsets
        int64, shape ``(n + 1,)``: packet ``i`` is ``data[offsets[i]:offsets[i + 1]]``.
    ts_us
        int64, shape ``(n,)``: capture time, microseconds since the epoch.
    wire_len
        int32, shape ``(n,)``: length on the wire, at least the captured length.
    link_type
        LINKTYPE number of pcap (1 = Ethernet).
    """

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    ts_us: npt.NDArray[np.int64]
    wire_len: npt.NDArray[np.int32]
    link_type: int

    def __len__(self) -> int:
        return len(self.ts_us)

    @classmethod
    def from_frames(
        cls,
        frames: Sequence[bytes],
        ts_us: Sequence[int],
        wire_len: Sequence[int] | None = None,
        link_type: int = 1,
    ) -> "PacketBatch":
        """Pack single frames into a batch; ``wire_len`` defaults to the captured lengths."""
        captured = np.fromiter(map(len, frames), dtype=np.int64, count=len(frames))
        offsets = np.zeros(len(frames) + 1, dtype=np.int64)
        np.cumsum(captured, out=offsets[1:])
        wire = captured if wire_len is None else np.maximum(np.asarray(wire_len, dtype=np.int64), captured)
        return cls(
            data=np.frombuffer(b"".join(frames), dtype=np.uint8),
            offsets=offsets,
            ts_us=np.asarray(ts_us, dtype=np.int64),
            wire_len=np.minimum(wire, np.iinfo(np.int32).max).astype(np.int32),
            link_type=link_type,
        )

    @classmethod
    def joined(cls, batches: Sequence["PacketBatch"]) -> "PacketBatch":
        """Return several batches of one link type as one, at least one."""
        if len(batches) == 1:
            return batches[0]
        pieces = [batch.data[batch.offsets[0] : batch.offsets[-1]] for batch in batches]
        offsets, filled = [np.zeros(1, dtype=np.int64)], 0
        for batch, piece in zip(batches, pieces, strict=True):
            offsets.append(batch.offsets[1:] - batch.offsets[0] + filled)
            filled += len(piece)
        return cls(
            data=np.concatenate(pieces),
            offsets=np.concatenate(offsets),
            ts_us=np.concatenate([batch.ts_us for batch in batches]),
            wire_len=np.concatenate([batch.wire_len for batch in batches]),
            link_type=batches[0].link_type,
        )

    def slice(self, start: int, stop: int) -> "PacketBatch":
        """Return packets ``start`` to ``stop`` (exclusive) as a batch that shares the bytes."""
        return PacketBatch(
            data=self.data,
            offsets=self.offsets[start : stop + 1],
            ts_us=self.ts_us[start:stop],
            wire_len=self.wire_len[start:stop],
            link_type=self.link_type,
        )


@dataclass(frozen=True, slots=True, eq=False)
class FlowBatch:
    """Flow records, in the order in which they were closed.

    Attributes
    ----------
    identity
        Structured array of dtype ``IDENTITY``, shape ``(n,)``.
    features
        float64, shape ``(n, N_FEATURES)``: raw units, columns in the order of ``contract.features``.
    """

    identity: npt.NDArray[np.void]
    features: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.identity)

    @classmethod
    def concat(cls, batches: Iterable["FlowBatch"]) -> "FlowBatch":
        """Return one batch with the rows of all, in order; of none: ``EMPTY``."""
        parts = [batch for batch in batches if len(batch)]
        if not parts:
            return EMPTY
        if len(parts) == 1:
            return parts[0]
        return cls(
            identity=np.concatenate([part.identity for part in parts]),
            features=np.concatenate([part.features for part in parts]),
        )

    def select(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> "FlowBatch":
        """Return the rows that a mask or an index array picks."""
        at = np.arange(len(self))[rows]
        # Indexing a structured array would copy each of its fields by itself.
        return FlowBatch(identity=self.identity.take(at), features=self.features[at])

    def ip_text(self, row: int) -> tuple[str, str]:
        """Return initiator and responder address of one row as text."""
        record = self.identity[row]
        version = int(record["ip_version"])
        return address_text(record["src_ip"].tobytes(), version), address_text(record["dst_ip"].tobytes(), version)


EMPTY = FlowBatch(
    identity=np.zeros(0, dtype=IDENTITY),
    features=np.zeros((0, N_FEATURES), dtype=np.float64),
)
"""No rows."""


def address_text(address: bytes, ip_version: int) -> str:
    """Return a 16-byte address of a record as text."""
    return str(IPv4Address(address[12:]) if ip_version == 4 else IPv6Address(address))


def address_bytes(text: str) -> bytes:
    """Return the 16-byte form of an address given as text.

    Raises
    ------
    ValueError
        If the text is not an IP address.
    """
    try:
        return V4_PREFIX + IPv4Address(text).packed
    except ValueError:
        return IPv6Address(text).packed
