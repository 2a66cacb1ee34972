"""Closed flows to records: identities, and features by the formulas of the per-packet meter."""

import numpy as np
import numpy.typing as npt

from contract.features import APPLICATIONS, INDEX, N_FEATURES
from device_agent.flows.columnar.state import HANDSHAKE, HAS_TCP, SUM, joined
from device_agent.flows.ids import N_WORDS, flow_ids
from device_agent.flows.packets import ICMP, ICMPV6, TCP, UDP
from device_agent.flows.records import EMPTY, IDENTITY, FlowBatch
from device_agent.flows.windows import Opened

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

_SECOND_US = 1_000_000
_BLOCK = 4_000
_8, _16, _HALF = np.uint64(8), np.uint64(16), np.uint64(32)
_LOW_8, _LOW_12, _LOW_16, _LOW_HALF = np.uint64(0xFF), np.uint64(0xFFF), np.uint64(0xFFFF), np.uint64(0xFFFFFFFF)
_V4_PREFIX = np.uint64(0xFFFF00000000)
"""Of the lower word of an IPv4 address in its 16-byte form."""


def _at(*patterns: str) -> npt.NDArray[np.intp]:
    """Return the places of features in the schema."""
    return np.array([INDEX[name] for name in patterns], dtype=np.intp)


_SIDE_PKTS, _SIDE_BYTES = _at("fwd_pkts", "bwd_pkts"), _at("fwd_bytes", "bwd_bytes")
_PAYLOAD_BYTES, _PAYLOAD_PKTS = (
    _at("fwd_payload_bytes", "bwd_payload_bytes"),
    _at("fwd_payload_pkts", "bwd_payload_pkts"),
)
_DURATIONS = _at("duration_s", "fwd_duration_s", "bwd_duration_s")
_BYTES_PER_S = _at("bytes_per_s", "fwd_bytes_per_s", "bwd_bytes_per_s")
_INIT_WINDOWS = _at("fwd_init_win", "bwd_init_win")
_RETRANSMITTED = _at("fwd_retrans_pkts", "bwd_retrans_pkts")
_APPLICATIONS = _at(*(f"{name}_pkts" for name, _ in APPLICATIONS))
_OPENED = _at(*(f"initiator_{name}" for name in Opened._fields))
_FLAGS = [
    ((_at(f"fwd_{low}_pkts", f"bwd_{low}_pkts"), _at(f"fwd_{high}_pkts", f"bwd_{high}_pkts")), f"{low}_{high}")
    for low, high in (("syn", "ack"), ("fin", "rst"), ("psh", "urg"))
]
_STATISTICS = np.array(
    [
        [
            [INDEX[f"{who}_{what}_{name}{unit}"] for who in ("all", "fwd", "bwd")]
            for what, unit in (("len", ""), ("iat", "_s"))
        ]
        for name in ("min", "max", "mean", "std")
    ]
)
"""Places of the statistics: by statistic, by lengths and gaps, by all packets and each direction."""


def records(closed: list[tuple[npt.NDArray[np.void], npt.NDArray[np.uint8]]]) -> FlowBatch:
    """Return the records of closed flows, in order.

    Parameters
    ----------
    closed
        Flows, structured as ``state.FLOW``, keys included; and the ``EndReason`` of each.
    """
    n = sum(len(flows) for flows, _ in closed)
    if not n:
        return EMPTY
    identity, features = np.zeros(n, dtype=IDENTITY), np.empty((n, N_FEATURES), dtype=np.float64)
    if n <= _BLOCK and len(closed) > 1:
        closed = [(joined([flows for flows, _ in closed]), np.concatenate([reasons for _, reasons in closed]))]
    at = 0
    for flows, reasons in closed:
        # Block by block, so that the columns of a block stay in the cache.
        for low in range(0, len(flows), _BLOCK):
            block = flows[low : low + _BLOCK]
            _identity(identity[at : at + len(block)], block)
            identity["end_reason"][at : at + len(block)] = reasons[low : low + _BLOCK]
            features[at : at + len(block)] = _features(block).T
            at += len(block)
    return FlowBatch(identity=identity, features=features)


def _identity(identity: npt.NDArray[np.void], flows: npt.NDArray[np.void]) -> None:
    """Fill what flows are."""
    key_0, key_1, swapped, is_v6 = flows["key_0"], flows["key_1"], flows["swapped"], flows["is_v6"]
    words = np.zeros((N_WORDS, len(flows)), dtype=np.uint64)
    words[1], words[3] = key_0 >> _HALF | _V4_PREFIX, key_0 & _LOW_HALF | _V4_PREFIX
    six = is_v6.nonzero()[0]
    if len(six):
        words[:4, six] = flows["v6_words"][six].T
    words[:4] = np.where(swapped, words[[2, 3, 0, 1]], words[:4])
    ports = key_1 >> _HALF
    ports = np.where(swapped, ports << _16 & _LOW_HALF | ports >> _16, ports)
    words[4], words[5] = ports << _HALF | key_1 & _LOW_HALF, flows["first"]
    identity["flow_id"] = flow_ids(words)
    identity["ts_start_us"], identity["ts_end_us"] = flows["first"], flows["last"]
    addresses = words[:4].T.astype(">u8", order="C").view(np.uint8).reshape(-1, 2, 16)
    identity["src_ip"], identity["dst_ip"] = addresses[:, 0], addresses[:, 1]
    identity["ip_version"] = np.where(is_v6, 6, 4)
    identity["src_port"], identity["dst_port"] = ports >> _16, ports & _LOW_16
    identity["proto"] = key_1 & _LOW_8
    identity["vlan"] = key_1 >> _8 & _LOW_12
    identity["part_index"] = flows["part"]


def _features(flows: npt.NDArray[np.void]) -> F64:
    """Return the features, shape ``(N_FEATURES, n)``. Rows of three are all packets, forward and backward ones."""
    sums = np.ascontiguousarray(flows["sums"].transpose(2, 1, 0))
    signed = sums.view(np.int64)
    proto = flows["key_1"] & np.uint64(0xFF)
    pkts, size = _with_total(signed[SUM["pkts"]]), _with_total(signed[SUM["bytes"]])
    spans_us = np.empty_like(pkts)
    spans_us[0] = flows["last"] - flows["first"]
    spans_us[1:] = np.where(pkts[1:] > 0, flows["side_last"].T - flows["side_first"].T, 0)
    per_second = _SECOND_US / np.maximum(spans_us[0], 1)
    opened, tcp = flows["opened"], flows["tcp"]
    out = np.zeros((N_FEATURES, len(flows)), dtype=np.float64)
    out[INDEX["proto_tcp"]] = proto == TCP
    out[INDEX["proto_udp"]] = proto == UDP
    out[INDEX["proto_icmp"]] = (proto == ICMP) | (proto == ICMPV6)
    out[_SIDE_PKTS], out[_SIDE_BYTES] = pkts[1:], size[1:]
    out[_PAYLOAD_BYTES], out[_PAYLOAD_PKTS] = signed[SUM["payload_bytes"]], signed[SUM["payload_pkts"]]
    out[_DURATIONS] = spans_us / _SECOND_US
    out[_BYTES_PER_S] = size * per_second
    out[INDEX["pkts_per_s"]] = pkts[0] * per_second
    out[INDEX["down_up_ratio"]] = _ratio(pkts[2], pkts[1])
    out[INDEX["handshake_done"]] = (tcp & (HAS_TCP | HANDSHAKE)) == (HAS_TCP | HANDSHAKE)
    out[_INIT_WINDOWS] = np.maximum(flows["window"], 0).T
    out[_RETRANSMITTED], out[_APPLICATIONS] = flows["retransmitted"].T, flows["applications"].T
    out[_OPENED] = opened.T
    for names, pair in _FLAGS:
        out[names[0]] = sums[SUM[pair]] & _LOW_HALF
        out[names[1]] = sums[SUM[pair]] >> _HALF
    _statistics(out, flows, pkts, size, spans_us, sums)
    return out


def _statistics(out: F64, flows: npt.NDArray[np.void], pkts: I64, size: I64, spans_us: I64, sums: U64) -> None:
    """Fill the statistics of lengths and gaps."""
    least, greatest = flows["least"].transpose(2, 1, 0), flows["greatest"].transpose(2, 1, 0)
    gaps = np.maximum(pkts - 1, 0)
    count, total = np.stack([pkts, gaps]), np.stack([size, spans_us])
    squares, low, high = np.empty_like(count, dtype=np.uint64), np.empty_like(count), np.empty_like(count)
    squares[:, 1:] = sums[[SUM["len_squares"], SUM["gap_squares"]]]
    squares[0, 0] = squares[0, 1] + squares[0, 2]
    squares[1, 0] = flows["gap_squares"]
    low[:, 1:], high[:, 1:] = least, greatest
    low[0, 0], high[0, 0] = least[0].min(axis=0), greatest[0].max(axis=0)
    low[1, 0], high[1, 0] = flows["gap_min"], flows["gap_max"]
    values = np.stack([np.where(count > 0, low, 0), high, _ratio(total, count), deviation(count, total, squares)])
    values[:, 1] /= _SECOND_US
    out[_STATISTICS] = values


def _with_total(sides: I64) -> I64:
    """Return three rows of two: their sum first."""
    return np.stack([sides[0] + sides[1], sides[0], sides[1]])


def _ratio(above: I64, below: I64) -> F64:
    """Return quotients, 0 where the divisor is."""
    out: F64 = above / np.maximum(below, 1)
    out[below <= 0] = 0.0
    return out


def deviation(count: I64, total: I64, squares: U64) -> F64:
    """Return sample standard deviations; 0 for fewer than two values.

    Parameters
    ----------
    count, total
        How many integers, and their sum.
    squares
        Sum of their squares modulo 2**64.

    Notes
    -----
    With ``m`` the mean rounded to an integer, the sum of ``(x - m)**2`` is ``squares - 2 m total + count m**2`` modulo
    2**64, and exact if it is below 2**64: for lengths always, for gaps if the idle timeout times the active timeout is
    (in microseconds). The rest of the way, from ``m`` to the true mean, loses at most one bit, as ``m`` is within 1/2.
    """
    several = count > 1
    n = np.where(several, count, 2)
    mean = (2 * total + n) // (2 * n)
    rest = (total - n * mean).astype(np.float64)
    m = mean.astype(np.uint64)
    about_mean = squares - np.uint64(2) * m * total.astype(np.uint64) + n.astype(np.uint64) * m * m
    variance = (about_mean.astype(np.float64) - rest * rest / n) / (n - 1)
    out: F64 = np.where(several, np.sqrt(np.maximum(variance, 0.0)), 0.0)
    return out
