"""Header parsing over a batch of frames, by the rules of ``device_agent.flows.packets``.

The common frame (IPv4 without options, not a later fragment, headers captured in full) is read through one structured
view of the first bytes. All others go through ``headers.py``, still in arrays, and may be anything.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from device_agent.flows.columnar.headers import METERED, Headers, read_headers
from device_agent.flows.packets import (
    BSD_LOOP,
    BSD_NULL,
    ETHERNET,
    ICMP,
    ICMPV6,
    LINUX_SLL,
    LINUX_SLL2,
    RAW_IP,
    REASONS,
    TCP,
    UDP,
)
from device_agent.flows.records import PacketBatch

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_WINDOW = 64
"""Bytes of each frame that the common path looks at: link header, IPv4 header and 16 bytes of transport header."""

_NETWORK_START = {ETHERNET: 14, LINUX_SLL: 16, LINUX_SLL2: 20, BSD_NULL: 4, BSD_LOOP: 4} | dict.fromkeys(RAW_IP, 0)
_ETHERTYPE_AT = {ETHERNET: 12, LINUX_SLL: 14, LINUX_SLL2: 0}


@dataclass(frozen=True, slots=True, eq=False)
class Packets:
    """The packets of a batch that can be metered.

    Attributes
    ----------
    at
        Their positions in the batch, ascending.
    key_0, key_1
        uint64, by packet: the flow key with its endpoints in order, both IPv4 addresses (0 for IPv6); both ports, VLAN
        and protocol.
    is_v6
        By packet: whether the addresses are IPv6.
    v6_at, v6_words
        Which of the packets are IPv6, and their addresses in order, uint64, shape ``(k, 4)``.
    swapped
        By position in the batch, as all that follow: whether the packet goes from the second endpoint of the key to
        the first.
    symmetric
        Whether both endpoints are one.
    ip_len, payload_len
        Bytes.
    network_at
        Where in the frame the IP header begins.
    flags, seq, window
        Of the TCP header; ``flags`` is 0 without one, the others mean nothing.
    has_tcp
        Whether the packet carries a TCP header.
    """

    at: npt.NDArray[np.intp]
    key_0: U64
    key_1: U64
    is_v6: Bool
    v6_at: npt.NDArray[np.intp]
    v6_words: U64
    swapped: Bool
    symmetric: Bool
    ip_len: I64
    payload_len: I64
    network_at: npt.NDArray[np.uint8]
    flags: npt.NDArray[np.uint8]
    seq: npt.NDArray[np.uint32]
    window: npt.NDArray[np.uint16]
    has_tcp: Bool

    def __len__(self) -> int:
        return len(self.at)


def parse_batch(batch: PacketBatch) -> tuple[Packets, dict[str, int]]:
    """Parse the frames of a batch.

    Returns
    -------
    Packets
        What can be metered.
    dict of str to int
        Frames that cannot, by reason, reasons without frames left out.
    """
    captured = np.diff(batch.offsets)
    headers = _common(batch, captured)
    rest = (headers.reason != METERED).nonzero()[0]
    if not len(rest):
        return _packets(headers, None), {}
    read_headers(batch, rest, captured[rest], headers)
    kept = (headers.reason == METERED).nonzero()[0]
    counts = np.bincount(headers.reason, minlength=METERED + 1)
    refused = {reason: int(n) for reason, n in zip(REASONS, counts, strict=False) if n}
    return _packets(headers, kept if len(kept) < len(batch) else None), refused


@cache
def _layout(link_type: int) -> np.dtype[np.void]:
    """Return the fields of the common frame of a link type within ``_WINDOW`` bytes."""
    start = _NETWORK_START[link_type]
    fields = {
        "version": ("u1", start),
        "total": (">u2", start + 2),
        "fragment": (">u2", start + 6),
        "proto": ("u1", start + 9),
        "addresses": (">u8", start + 12),
        "ports": (">u4", start + 20),
        "seq": (">u4", start + 24),
        "offset": ("u1", start + 32),
        "flags": ("u1", start + 33),
        "window": (">u2", start + 34),
        "ethertype": (">u2", _ETHERTYPE_AT.get(link_type, 0)),
    }
    return np.dtype(
        {
            "names": list(fields),
            "formats": [kind for kind, _ in fields.values()],
            "offsets": [at for _, at in fields.values()],
            "itemsize": _WINDOW,
        }
    )


def _windows(batch: PacketBatch) -> npt.NDArray[np.void]:
    """Return the first ``_WINDOW`` bytes of each frame; what lies behind its end is arbitrary."""
    data, starts, kind = batch.data, batch.offsets[:-1], f"V{_WINDOW}"
    last = len(data) - _WINDOW
    if len(starts) and starts[-1] > last:
        # A few frames at the end of the buffer have less than a window behind their start.
        data = np.ascontiguousarray(data)
        cut = int(np.searchsorted(starts, last, side="right"))
        tail_from = int(starts[cut])
        tail = np.zeros(len(data) - tail_from + _WINDOW, dtype=np.uint8)
        tail[: len(data) - tail_from] = data[tail_from:]
        windows = np.empty(len(starts), dtype=kind)
        windows[cut:] = _strided(tail, kind)[starts[cut:] - tail_from]
        if cut:
            windows[:cut] = _strided(data, kind)[starts[:cut]]
        return windows
    taken: npt.NDArray[np.void] = _strided(np.ascontiguousarray(data), kind)[starts]
    return taken


def _strided(data: npt.NDArray[np.uint8], kind: str) -> npt.NDArray[np.void]:
    return np.ndarray((max(len(data) - _WINDOW + 1, 0),), dtype=kind, buffer=data, strides=(1,))


def _common(batch: PacketBatch, captured: I64) -> Headers:
    """Read all frames as if they were common ones; those that are get the reason ``METERED``."""
    n, link_type = len(batch), batch.link_type
    if link_type not in _NETWORK_START or not n:
        return Headers.blank(n)
    start = _NETWORK_START[link_type]
    view = _windows(batch).view(_layout(link_type))
    proto = view["proto"]
    is_tcp = proto == TCP
    has_ports = is_tcp | (proto == UDP)
    on_wire = batch.wire_len - np.int32(start)
    total = view["total"].astype(np.int32)
    np.minimum(total, on_wire, out=total, where=total != 0)
    np.copyto(total, on_wire, where=total == 0)
    offset = view["offset"]
    header = np.where(is_tcp, (offset >> 2) & np.uint8(0x3C), _HEADER_BYTES[proto])
    payload = total - header
    payload -= 20
    common = (view["version"] == 0x45) & ((view["fragment"] & 0x1FFF) == 0) & (captured >= start + 36)
    if link_type in _ETHERTYPE_AT:
        common &= view["ethertype"] == 0x0800
    elif link_type not in RAW_IP:
        common[:] = False
    common &= (total >= 20) & ((payload >= 0) | ~has_ports) & (~is_tcp | ((offset >= 0x50) & (total >= 40)))
    ports = view["ports"].astype(np.uint64)
    ports *= has_ports
    return Headers(
        reason=common.view(np.uint8) * np.uint8(METERED),
        addresses=view["addresses"].astype(np.uint64),
        ports=ports,
        proto=proto.astype(np.uint64),
        ip_len=total.astype(np.int64),
        payload_len=np.maximum(payload, 0).astype(np.int64),
        network_at=np.full(n, start, dtype=np.uint8),
        flags=(view["flags"] & np.uint8(0x3F)) * is_tcp,
        seq=view["seq"].astype(np.uint32),
        window=view["window"].astype(np.uint16),
        has_tcp=is_tcp,
        is_v6=np.zeros(n, dtype=np.bool_),
        v6_at=_NO_ROWS,
        v6_words=_NO_WORDS,
    )


_NO_ROWS = np.zeros(0, dtype=np.intp)
_NO_WORDS = np.zeros((0, 4), dtype=np.uint64)


def _header_bytes() -> npt.NDArray[np.uint8]:
    """Return by protocol how much of a packet is transport header; TCP says so itself."""
    sizes = np.zeros(256, dtype=np.uint8)
    sizes[[UDP, ICMP, ICMPV6]] = 8
    return sizes


_HEADER_BYTES = _header_bytes()
_32, _16, _LOW_32, _LOW_16 = np.uint64(32), np.uint64(16), np.uint64(0xFFFFFFFF), np.uint64(0xFFFF)


def _packets(headers: Headers, kept: npt.NDArray[np.intp] | None) -> Packets:
    """Bring the endpoints in order and keep the keys of what can be metered (``None``: all)."""
    addresses, ports, is_v6 = headers.addresses, headers.ports, headers.is_v6
    source, target = (addresses >> _32 << _16) | ports >> _16, (addresses & _LOW_32) << _16 | ports & _LOW_16
    swapped, symmetric = source > target, source == target
    v6_at = headers.v6_at
    words = headers.v6_words
    if len(v6_at):
        swapped[v6_at], symmetric[v6_at] = _compare_v6(words, ports[v6_at])
        words = np.where(swapped[v6_at, None], words[:, [2, 3, 0, 1]], words)
    key_0 = np.where(swapped, addresses << _32 | addresses >> _32, addresses)
    key_1 = np.where(swapped, ports << _16 | ports >> _16, ports)
    key_1 <<= _32
    key_1 |= headers.proto
    if kept is None:
        at = np.arange(len(key_0))
    else:
        at, key_0, key_1, in_kept = kept, key_0[kept], key_1[kept], is_v6[kept]
        if len(v6_at):
            words = words[np.searchsorted(v6_at, kept[in_kept])]
            v6_at = in_kept.nonzero()[0]
        is_v6 = in_kept
    return Packets(
        at=at,
        key_0=key_0,
        key_1=key_1,
        is_v6=is_v6,
        v6_at=v6_at,
        v6_words=words,
        swapped=swapped,
        symmetric=symmetric,
        ip_len=headers.ip_len,
        payload_len=headers.payload_len,
        network_at=headers.network_at,
        flags=headers.flags,
        seq=headers.seq,
        window=headers.window,
        has_tcp=headers.has_tcp,
    )


def _compare_v6(words: U64, ports: U64) -> tuple[Bool, Bool]:
    """Return which endpoints are in the wrong order and which are equal."""
    source, target = ports >> _16, ports & _LOW_16
    high = words[:, 0] == words[:, 2]
    low = words[:, 1] == words[:, 3]
    greater = np.where(high, np.where(low, source > target, words[:, 1] > words[:, 3]), words[:, 0] > words[:, 2])
    return greater, high & low & (source == target)
