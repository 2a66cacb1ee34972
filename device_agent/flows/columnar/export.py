"""Closed flows to records: identities, and features by the formulas of the per-packet meter."""

import struct
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from contract.features import NAMES
from device_agent.flows.columnar.state import HANDSHAKE, HAS_TCP, SUM
from device_agent.flows.packets import ICMP, ICMPV6, TCP, UDP
from device_agent.flows.records import EMPTY, IDENTITY, FlowBatch

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

_SECOND_US = 1_000_000
_ID_INPUT = struct.Struct("!HHBIq")
_ID_DTYPE = np.dtype(
    [("src", "V16"), ("dst", "V16"), ("src_port", ">u2"), ("dst_port", ">u2"), ("proto", "u1"), ("vlan", ">u4"), ("first", ">i8")]
)
_SIDES = ("fwd", "bwd")
_FLAG_PAIRS = {"syn": ("syn_ack", 0), "ack": ("syn_ack", 32), "fin": ("fin_rst", 0), "rst": ("fin_rst", 32),
               "psh": ("psh_urg", 0), "urg": ("psh_urg", 32)}  # fmt: skip


def records(flows: npt.NDArray[np.void], reasons: npt.NDArray[np.uint8]) -> FlowBatch:
    """Return the records of closed flows.

    Parameters
    ----------
    flows
        Structured as ``state.FLOW``, keys included.
    reasons
        ``EndReason`` of each.
    """
    if not len(flows):
        return EMPTY
    columns = _columns(flows)
    features = np.empty((len(flows), len(NAMES)), dtype=np.float64)
    for i, name in enumerate(NAMES):
        features[:, i] = columns[name]
    return FlowBatch(identity=_identity(flows, reasons), features=features)


def _identity(flows: npt.NDArray[np.void], reasons: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    n, key_1, swapped = len(flows), flows["key_1"], flows["swapped"]
    both = np.zeros((n, 2, 16), dtype=np.uint8)
    both[:, :, 10:12] = 0xFF
    both[:, :, 12:] = flows["key_0"].astype(">u8").view(np.uint8).reshape(n, 2, 4)
    is_v6 = flows["is_v6"]
    if is_v6.any():
        both[is_v6] = flows["v6_words"][is_v6].astype(">u8").view(np.uint8).reshape(-1, 2, 16)
    both = np.where(swapped[:, None, None], both[:, ::-1], both)
    ports = np.stack([key_1 >> np.uint64(48), (key_1 >> np.uint64(32)) & np.uint64(0xFFFF)])
    ports = np.where(swapped, ports[::-1], ports)
    vlan = (key_1 >> np.uint64(8)) & np.uint64(0xFFFFFF)
    named = np.zeros(n, dtype=_ID_DTYPE)
    named["src"] = np.ascontiguousarray(both[:, 0]).view("V16")[:, 0]
    named["dst"] = np.ascontiguousarray(both[:, 1]).view("V16")[:, 0]
    named["src_port"], named["dst_port"] = ports
    named["proto"] = key_1 & np.uint64(0xFF)
    named["vlan"] = vlan
    named["first"] = flows["first"]
    identity = np.zeros(n, dtype=IDENTITY)
    identity["flow_id"] = _flow_ids(named)
    identity["ts_start_us"], identity["ts_end_us"] = flows["first"], flows["last"]
    identity["src_ip"], identity["dst_ip"] = both[:, 0], both[:, 1]
    identity["ip_version"] = np.where(is_v6, 6, 4)
    identity["src_port"], identity["dst_port"] = ports
    identity["proto"] = named["proto"]
    identity["vlan"] = vlan & np.uint64(0x0FFF)
    identity["end_reason"] = reasons
    identity["part_index"] = flows["part"]
    return identity


def _flow_ids(named: npt.NDArray[np.void]) -> U64:
    """Return the ids of flows from what they are made of, packed."""
    packed, size = named.tobytes(), _ID_DTYPE.itemsize
    digests = [blake2b(packed[at : at + size], digest_size=8).digest() for at in range(0, len(packed), size)]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64) >> np.uint64(1)


def _columns(flows: npt.NDArray[np.void]) -> dict[str, F64]:
    """Return every feature by name."""
    sums = flows["sums"]
    proto = flows["key_1"] & np.uint64(0xFF)
    pkts = sums[:, :, SUM["pkts"]].astype(np.int64)
    size = sums[:, :, SUM["bytes"]].astype(np.int64)
    squares = sums[:, :, SUM["len_squares"]]
    gap_squares = sums[:, :, SUM["gap_squares"]]
    all_pkts, all_size = pkts.sum(axis=1), size.sum(axis=1)
    duration_us = flows["last"] - flows["first"]
    side_us = np.where(pkts > 0, flows["side_last"] - flows["side_first"], 0)
    per_second = _SECOND_US / np.maximum(duration_us, 1)
    out: dict[str, F64] = {
        "proto_tcp": proto == TCP,
        "proto_udp": proto == UDP,
        "proto_icmp": (proto == ICMP) | (proto == ICMPV6),
        "duration_s": duration_us / _SECOND_US,
        "bytes_per_s": all_size * per_second,
        "pkts_per_s": all_pkts * per_second,
        "down_up_ratio": _ratio(pkts[:, 1], pkts[:, 0]),
        "handshake_done": ((flows["tcp"] & HAS_TCP) != 0) & ((flows["tcp"] & HANDSHAKE) == HANDSHAKE),
        "initiator_flows": flows["opened"][:, 0],
        "initiator_peers": flows["opened"][:, 1],
        "initiator_ports": flows["opened"][:, 2],
    }
    least, greatest = flows["least"], flows["greatest"]
    out |= _lengths("all", least[:, :, 0].min(axis=1), greatest[:, :, 0].max(axis=1), all_pkts, all_size, squares.sum(axis=1))
    out |= _gaps("all", flows["gap_min"], flows["gap_max"], all_pkts - 1, duration_us, flows["gap_squares"])
    for i, side in enumerate(_SIDES):
        n = pkts[:, i]
        out |= {
            f"{side}_pkts": n,
            f"{side}_bytes": size[:, i],
            f"{side}_payload_bytes": sums[:, i, SUM["payload_bytes"]],
            f"{side}_payload_pkts": sums[:, i, SUM["payload_pkts"]],
            f"{side}_duration_s": side_us[:, i] / _SECOND_US,
            f"{side}_bytes_per_s": size[:, i] * per_second,
            f"{side}_init_win": np.maximum(flows["window"][:, i], 0),
        }
        out |= {
            f"{side}_{flag}_pkts": (sums[:, i, SUM[pair]] >> np.uint64(shift)) & np.uint64(0xFFFFFFFF)
            for flag, (pair, shift) in _FLAG_PAIRS.items()
        }
        out |= _lengths(side, least[:, i, 0], greatest[:, i, 0], n, size[:, i], squares[:, i])
        out |= _gaps(side, least[:, i, 1], greatest[:, i, 1], n - 1, side_us[:, i], gap_squares[:, i])
    return out


def _lengths(prefix: str, least: I64, greatest: I64, count: I64, total: I64, squares: U64) -> dict[str, F64]:
    return {
        f"{prefix}_len_min": np.where(count > 0, least, 0),
        f"{prefix}_len_max": greatest,
        f"{prefix}_len_mean": _ratio(total, count),
        f"{prefix}_len_std": deviation(count, total, squares),
    }


def _gaps(prefix: str, least: I64, greatest: I64, count: I64, total: I64, squares: U64) -> dict[str, F64]:
    some = count > 0
    return {
        f"{prefix}_iat_min_s": np.where(some, least, 0) / _SECOND_US,
        f"{prefix}_iat_max_s": np.where(some, greatest, 0) / _SECOND_US,
        f"{prefix}_iat_mean_s": _ratio(total, np.maximum(count, 0)) / _SECOND_US,
        f"{prefix}_iat_std_s": deviation(count, total, squares) / _SECOND_US,
    }


def _ratio(above: I64, below: I64) -> F64:
    """Return quotients, 0 where the divisor is."""
    out: F64 = np.where(below > 0, above / np.maximum(below, 1), 0.0)
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
