"""The uncommon frames of a batch: VLAN tags, IP options, IPv6, fragments, cut and hostile headers, all in arrays.

Longer than most for the number of headers, each a few lines on the same arrays.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.flows import packets as rules
from device_agent.flows.records import PacketBatch

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]

METERED = 255
"""Reason code of a packet that can be metered; smaller codes index ``packets.REASONS``."""

_CODE = {reason: code for code, reason in enumerate(rules.REASONS)}
_PENDING = 254
_V4, _V6, _ARP = 0x0800, 0x86DD, 0x0806
_V6_FAMILIES = (10, 24, 28, 30)
_IS_EXTENSION = np.isin(np.arange(256), (0, 43, 60, 135, 139, 140, 51, 44))
_FRAGMENT_HEADER, _AUTHENTICATION_HEADER = 44, 51
_MAX_EXTENSION_HEADERS = 8
_LARGEST = 8
"""Bytes of the largest field."""
_FEW = 160
"""Up to so many frames, reading them one by one takes less time than the array operations do."""


@dataclass(slots=True, eq=False)
class Headers:
    """Columns over all frames of a batch; meaningful where ``reason`` is ``METERED``.

    ``addresses`` are both IPv4 addresses, ``ports`` both ports, the source in the upper half. Addresses of IPv6 packets
    are four words in ``v6_words`` (source, then destination), for the ascending positions ``v6_at``. ``proto`` holds
    the VLAN tags too: ``vlan << 8 | proto``. ``network_at`` is where in the frame the IP header begins.
    """

    reason: U8
    addresses: U64
    ports: U64
    proto: U64
    ip_len: I64
    payload_len: I64
    network_at: U8
    flags: U8
    seq: npt.NDArray[np.uint32]
    window: npt.NDArray[np.uint16]
    has_tcp: Bool
    is_v6: Bool
    v6_at: npt.NDArray[np.intp]
    v6_words: U64

    @classmethod
    def blank(cls, n: int) -> "Headers":
        """Return columns of zeros for ``n`` frames."""

        def words() -> U64:
            return np.zeros(n, dtype=np.uint64)

        return cls(
            reason=np.zeros(n, dtype=np.uint8),
            addresses=words(),
            ports=words(),
            proto=words(),
            ip_len=np.zeros(n, dtype=np.int64),
            payload_len=np.zeros(n, dtype=np.int64),
            network_at=np.zeros(n, dtype=np.uint8),
            flags=np.zeros(n, dtype=np.uint8),
            seq=np.zeros(n, dtype=np.uint32),
            window=np.zeros(n, dtype=np.uint16),
            has_tcp=np.zeros(n, dtype=np.bool_),
            is_v6=np.zeros(n, dtype=np.bool_),
            v6_at=np.zeros(0, dtype=np.intp),
            v6_words=np.zeros((0, 4), dtype=np.uint64),
        )


class _Bytes:
    """Captured bytes at computed positions; a field that is not wholly in the buffer reads as some bytes of it."""

    def __init__(self, data: U8) -> None:
        data = np.ascontiguousarray(data)
        if len(data) < _LARGEST:
            data = np.concatenate((data, np.zeros(_LARGEST, dtype=np.uint8)))
        self._fields = {
            size: np.ndarray((len(data) - size + 1,), dtype=f">u{size}", buffer=data, strides=(1,))
            for size in (1, 2, 4, _LARGEST)
        }

    def u8(self, at: I64) -> I64:
        """Return one byte each."""
        return self.number(at, 1)

    def number(self, at: I64, size: int) -> I64:
        """Return 1, 2 or 4 bytes each as a big-endian number."""
        field = self._fields[size]
        return field[np.minimum(at, len(field) - 1)].astype(np.int64)

    def word(self, at: I64) -> U64:
        """Return eight bytes each as a big-endian number."""
        field = self._fields[_LARGEST]
        return field[np.minimum(at, len(field) - 1)].astype(np.uint64)


@dataclass(slots=True, eq=False)
class _Frames:
    """The frames still being read; ``at`` is the next header, ``rest`` what the wire carried from there on."""

    row: npt.NDArray[np.intp]
    end: I64
    at: I64
    rest: I64
    vlan: I64

    def take(self, which: Bool) -> "_Frames":
        return _Frames(self.row[which], self.end[which], self.at[which], self.rest[which], self.vlan[which])


class _Reader:
    """One pass over the uncommon frames of a batch, writing into the columns."""

    def __init__(self, batch: PacketBatch, out: Headers) -> None:
        self._bytes = _Bytes(batch.data)
        self._offsets = batch.offsets
        self._link_type = batch.link_type
        self._out = out
        self._v6: list[tuple[npt.NDArray[np.intp], U64]] = []

    def run(self, frames: _Frames) -> None:
        """Give each frame its columns or its reason."""
        frames, ethertype = self._link(frames)
        frames, ethertype = self._tags(frames, ethertype)
        self._refuse(frames, ethertype == _ARP, rules.ARP)
        self._refuse(frames, (ethertype != _ARP) & (ethertype != _V4) & (ethertype != _V6), rules.NON_IP)
        self._ipv4(frames.take(ethertype == _V4))
        self._ipv6(frames.take(ethertype == _V6))
        if self._v6:
            at = np.concatenate([rows for rows, _ in self._v6])
            order = np.argsort(at)
            self._out.v6_at = at[order]
            self._out.v6_words = np.concatenate([words for _, words in self._v6])[order]

    def _refuse(self, frames: _Frames, which: Bool, reason: str) -> Bool:
        """Note why some frames are not metered; return the others."""
        self._out.reason[frames.row[which]] = _CODE[reason]
        return ~which

    def _sieve(self, frames: _Frames, which: Bool, reason: str) -> _Frames:
        """Note why some frames are not metered; return the others' rows."""
        return frames.take(self._refuse(frames, which, reason)) if which.any() else frames

    def _link(self, frames: _Frames) -> tuple[_Frames, I64]:
        """Step over the link header; return the EtherTypes."""
        link_type, read = self._link_type, self._bytes
        if link_type not in rules.LINK_TYPES:
            return self._sieve(frames, np.ones(len(frames.row), dtype=np.bool_), rules.LINK_TYPE), np.zeros(0, np.int64)
        size = {rules.ETHERNET: 14, rules.LINUX_SLL: 16, rules.LINUX_SLL2: 20}.get(link_type, 4)
        size = 0 if link_type in rules.RAW_IP else size
        frames = self._sieve(frames, frames.end - frames.at < max(size, 1), rules.TRUNCATED_LINK)
        at = frames.at
        if link_type in rules.RAW_IP:
            version = read.u8(at) >> 4
            ethertype = np.select([version == 4, version == 6], [_V4, _V6], 0)
        elif link_type in (rules.BSD_NULL, rules.BSD_LOOP):
            last = read.u8(at + 3)
            family = np.where(last != 0, last, read.u8(at))
            ethertype = np.select([family == 2, np.isin(family, _V6_FAMILIES)], [_V4, _V6], 0)
        else:
            ethertype = read.number(at + {14: 12, 16: 14, 20: 0}[size], 2)
        frames.at, frames.rest = at + size, frames.rest - size
        return frames, ethertype

    def _tags(self, frames: _Frames, ethertype: I64) -> tuple[_Frames, I64]:
        """Step over up to two VLAN tags."""
        for _ in range(2):
            tagged = (ethertype == 0x8100) | (ethertype == 0x88A8) | (ethertype == 0x9100)
            if not tagged.any():
                return frames, ethertype
            cut = tagged & (frames.end - frames.at < 4)
            if cut.any():
                kept = self._refuse(frames, cut, rules.TRUNCATED_LINK)
                frames, ethertype, tagged = frames.take(kept), ethertype[kept], tagged[kept]
            tag = self._bytes.number(frames.at, 2) & 0x0FFF
            ethertype = np.where(tagged, self._bytes.number(frames.at + 2, 2), ethertype)
            frames.vlan = np.where(tagged, frames.vlan << 12 | tag, frames.vlan)
            frames.at, frames.rest = frames.at + 4 * tagged, frames.rest - 4 * tagged
        return frames, ethertype

    def _ipv4(self, frames: _Frames) -> None:
        read, out = self._bytes, self._out
        frames = self._sieve(frames, frames.end - frames.at < 20, rules.TRUNCATED_IP)
        if not len(frames.row):
            return
        first = read.u8(frames.at)
        frames = self._sieve(frames, (first >> 4 != 4) | (first & 0x0F < 5), rules.MALFORMED_IP)
        header = (read.u8(frames.at) & 0x0F) * 4
        total = read.number(frames.at + 2, 2)
        frames.rest = np.where(total != 0, np.minimum(total, frames.rest), frames.rest)
        kept = self._refuse(frames, frames.rest < header, rules.MALFORMED_IP)
        frames, header = frames.take(kept), header[kept]
        kept = self._refuse(frames, frames.end - frames.at < header, rules.TRUNCATED_IP)
        frames, header = frames.take(kept), header[kept]
        at, row = frames.at, frames.row
        out.is_v6[row] = False
        out.network_at[row] = at - self._offsets[row]
        out.addresses[row] = read.word(at + 12)
        out.ip_len[row] = frames.rest
        proto, later = read.u8(at + 9), read.number(at + 6, 2) & 0x1FFF != 0
        frames.at, frames.rest = at + header, frames.rest - header
        self._portless(frames.take(later), proto[later])
        self._transport(frames.take(~later), proto[~later])

    def _ipv6(self, frames: _Frames) -> None:
        read, out = self._bytes, self._out
        frames = self._sieve(frames, frames.end - frames.at < 40, rules.TRUNCATED_IP)
        if not len(frames.row):
            return
        frames = self._sieve(frames, read.u8(frames.at) >> 4 != 6, rules.MALFORMED_IP)
        at, row = frames.at, frames.row
        payload, proto = read.number(at + 4, 2), read.u8(at + 6)
        frames.rest = np.where(payload != 0, np.minimum(40 + payload, frames.rest), frames.rest)
        out.ip_len[row] = frames.rest
        out.is_v6[row] = True
        out.network_at[row] = at - self._offsets[row]
        self._v6.append((row, np.stack([read.word(at + 8 * i) for i in range(1, 5)], axis=1)))
        out.addresses[row] = 0
        frames.at, frames.rest = at + 40, frames.rest - 40
        for _ in range(_MAX_EXTENSION_HEADERS):
            extended = _IS_EXTENSION[proto]
            self._transport(frames.take(~extended), proto[~extended])
            frames, proto = frames.take(extended), proto[extended]
            frames, proto = self._extension(frames, proto)
            if not len(frames.row):
                return
        self._refuse(frames, np.ones(len(frames.row), dtype=np.bool_), rules.MALFORMED_IP)

    def _extension(self, frames: _Frames, header: I64) -> tuple[_Frames, I64]:
        """Step over one extension header; later fragments leave here."""
        read = self._bytes
        kept = self._refuse(frames, frames.rest < 8, rules.MALFORMED_IP)
        frames, header = frames.take(kept), header[kept]
        kept = self._refuse(frames, frames.end - frames.at < 8, rules.TRUNCATED_IP)
        frames, header = frames.take(kept), header[kept]
        proto, field = read.u8(frames.at), read.u8(frames.at + 1)
        fragment = header == _FRAGMENT_HEADER
        later = fragment & (read.number(frames.at + 2, 2) >> 3 != 0)
        length = np.select([fragment, header == _AUTHENTICATION_HEADER], [8, (field + 2) * 4], (field + 1) * 8)
        if later.any():
            ends = frames.take(later)
            ends.rest = ends.rest - 8
            self._portless(ends, proto[later])
        too_long = ~later & (frames.rest < length)
        self._refuse(frames, too_long, rules.MALFORMED_IP)
        goes_on = ~(later | too_long)
        frames.at, frames.rest = frames.at + length, frames.rest - length
        return frames.take(goes_on), proto[goes_on]

    def _portless(self, frames: _Frames, proto: I64) -> None:
        """Meter packets by addresses and protocol alone."""
        out, row = self._out, frames.row
        out.reason[row] = METERED
        out.proto[row] = (frames.vlan << 8 | proto).astype(np.uint64)
        out.payload_len[row] = frames.rest
        out.ports[row] = 0
        out.flags[row] = out.seq[row] = out.window[row] = out.has_tcp[row] = 0

    def _transport(self, frames: _Frames, proto: I64) -> None:
        if not len(frames.row):
            return
        tcp, udp = proto == rules.TCP, proto == rules.UDP
        other = ~(tcp | udp)
        ends = frames.take(other)
        icmp = (proto[other] == rules.ICMP) | (proto[other] == rules.ICMPV6)
        ends.rest = np.where(icmp, np.maximum(0, ends.rest - 8), ends.rest)
        self._portless(ends, proto[other])
        self._udp(frames.take(udp))
        self._tcp(frames.take(tcp))

    def _udp(self, frames: _Frames) -> None:
        frames = self._sieve(frames, frames.rest < 8, rules.MALFORMED_TRANSPORT)
        captured = np.minimum(frames.end - frames.at, frames.rest)
        frames = self._sieve(frames, captured < 4, rules.TRUNCATED_TRANSPORT)
        frames.rest = frames.rest - 8
        self._portless(frames, np.full(len(frames.row), rules.UDP))
        self._ports(frames)

    def _tcp(self, frames: _Frames) -> None:
        read, out = self._bytes, self._out
        frames = self._sieve(frames, frames.rest < 20, rules.MALFORMED_TRANSPORT)
        captured = np.minimum(frames.end - frames.at, frames.rest)
        frames = self._sieve(frames, captured < 16, rules.TRUNCATED_TRANSPORT)
        offset = read.u8(frames.at + 12)
        bad = (offset < 0x50) | (frames.rest < (offset >> 4) * 4)
        frames = self._sieve(frames, bad, rules.MALFORMED_TRANSPORT)
        at, row = frames.at, frames.row
        frames.rest = frames.rest - (read.u8(at + 12) >> 4) * 4
        self._portless(frames, np.full(len(row), rules.TCP))
        self._ports(frames)
        out.seq[row] = read.number(at + 4, 4).astype(np.uint32)
        out.flags[row] = (read.u8(at + 13) & 0x3F).astype(np.uint8)
        out.window[row] = read.number(at + 14, 2).astype(np.uint16)
        out.has_tcp[row] = True

    def _ports(self, frames: _Frames) -> None:
        out, row = self._out, frames.row
        out.ports[row] = self._bytes.number(frames.at, 4).astype(np.uint64)


def read_headers(batch: PacketBatch, rows: npt.NDArray[np.intp], captured: I64, out: Headers) -> None:
    """Read the frames ``rows`` of a batch into the columns ``out``.

    Parameters
    ----------
    batch
        The frames.
    rows
        Ascending positions of the frames to read.
    captured
        Their captured lengths, bytes.
    out
        Columns over the whole batch; on return every row has its final reason.
    """
    if len(rows) <= _FEW:
        _read_one_by_one(batch, rows, captured, out)
        return
    at = batch.offsets[rows].astype(np.int64)
    frames = _Frames(
        row=rows,
        end=at + captured,
        at=at,
        rest=batch.wire_len[rows].astype(np.int64),
        vlan=np.zeros(len(rows), dtype=np.int64),
    )
    out.reason[rows] = _PENDING
    _Reader(batch, out).run(frames)


def _read_one_by_one(batch: PacketBatch, rows: npt.NDArray[np.intp], captured: I64, out: Headers) -> None:
    """Read frames with the parser of the per-packet meter."""
    metered: list[int] = []
    found: list[rules.Packet] = []
    six: list[int] = []
    starts, wire = batch.offsets[rows].tolist(), batch.wire_len[rows].tolist()
    data = batch.data
    for row, start, size, wire_len in zip(rows.tolist(), starts, captured.tolist(), wire, strict=True):
        packet = rules.parse(data[start : start + size].tobytes(), wire_len, batch.link_type)
        if isinstance(packet, str):
            out.reason[row] = _CODE[packet]
            continue
        metered.append(row)
        found.append(packet)
        if len(packet.src) != 4:
            six.append(len(found) - 1)
    if not found:
        return
    at = np.array(metered, dtype=np.intp)
    out.reason[at] = METERED
    out.addresses[at] = np.frombuffer(b"".join([p.src[-4:] + p.dst[-4:] for p in found]), dtype=">u8")
    out.ports[at] = [p.src_port << 16 | p.dst_port for p in found]
    out.proto[at] = [p.vlan << 8 | p.proto for p in found]
    lengths = np.array([(p.ip_len, p.payload_len) for p in found], dtype=np.int64)
    out.ip_len[at], out.payload_len[at] = lengths[:, 0], lengths[:, 1]
    out.network_at[at] = [p.payload_at - (p.ip_len - p.payload_len) for p in found]
    tcp = np.array([(p.tcp_flags, p.seq, p.window, p.has_tcp) for p in found], dtype=np.int64)
    out.flags[at], out.seq[at], out.window[at], out.has_tcp[at] = tcp.T
    out.is_v6[at] = False
    if six:
        out.v6_at = at[six]
        out.is_v6[out.v6_at] = True
        out.addresses[out.v6_at] = 0
        words = np.frombuffer(b"".join([found[i].src + found[i].dst for i in six]), dtype=">u8")
        out.v6_words = words.astype(np.uint64).reshape(-1, 4)
