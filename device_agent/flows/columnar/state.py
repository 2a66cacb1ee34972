"""The columns of a live flow, and how the packets of a batch add to them.

Every number is an exact integer. Sums of squares are kept modulo 2**64: what a standard deviation needs is the sum of
squared distances from the mean, and that one fits (see ``export.deviation``), so wrapping on the way does no harm.

A new statistic is one more entry in a table below: a sum, a least or a greatest value per direction.
"""

import numpy as np
import numpy.typing as npt

from device_agent.flows.applications import N_APPLICATIONS

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

SUMS = (
    "pkts",
    "bytes",
    "payload_bytes",
    "payload_pkts",
    "len_squares",
    "gap_squares",
    "syn_ack",
    "fin_rst",
    "psh_urg",
)
"""Sums per direction. The last three are pairs of counters, 32 bits each, the first-named one in the low half."""
EXTREMES = ("len", "gap")
"""Least and greatest values per direction."""

SUM = {name: i for i, name in enumerate(SUMS)}
NONE = np.int64(np.iinfo(np.int64).max)
"""A least value that was not seen yet."""

HANDSHAKE = 0x03
"""Bits of ``tcp``: how far the handshake went, 3 = done."""
ANSWERED = 0x04
"""More than SYNs was seen."""
FIN_FORWARD, FIN_BACKWARD = 0x08, 0x10
CLOSED_FORWARD = 0x20
"""The second of two FINs went forward."""
HAS_TCP = 0x40
"""The flow began with a TCP header."""

_KEY = [("key_0", "u8"), ("key_1", "u8"), ("v6_words", "u8", (4,)), ("is_v6", "?")]
KEY = np.dtype(_KEY)
"""A flow key, as in ``parse.Packets``."""

EVENT = np.dtype([*_KEY, ("swapped", "?"), ("answer", "?"), ("clock", "i8"), ("number", "i8")], align=True)
"""A flow was opened or answered: its key, whether the initiator is the second endpoint of the key, the packet clock in
microseconds (of openings), and which opened flow it is."""

FLOW = np.dtype(
    [
        *_KEY,
        ("swapped", "?"),
        ("tcp", "u1"),
        ("answered", "?"),
        ("part", "u2"),
        ("window", "i4", (2,)),
        ("number", "i8"),
        ("opened", "f8", (7,)),
        ("isn", "i8"),
        ("first", "i8"),
        ("last", "i8"),
        ("gap_min", "i8"),
        ("gap_max", "i8"),
        ("gap_squares", "u8"),
        ("side_first", "i8", (2,)),
        ("side_last", "i8", (2,)),
        ("sums", "u8", (2, len(SUMS))),
        ("least", "i8", (2, len(EXTREMES))),
        ("greatest", "i8", (2, len(EXTREMES))),
        ("top", "i8", (2,)),
        ("retransmitted", "u4", (2,)),
        ("applications", "u4", (N_APPLICATIONS,)),
    ],
    align=True,
)
"""A flow, or one part of it. Direction 0 is forward. ``swapped`` packets of the key are the forward ones if
``swapped`` is set. ``answered`` says whether a packet other than a RST came back; ``number`` which opened flow it is;
``opened`` holds ``windows.Opened``. ``window`` is the first window field of each direction, -1 before it; ``isn`` the
sequence number of the last forward SYN, -1 before it; ``top`` where the payload of each direction ends at most, -1
before any; ``retransmitted`` counts packets of each direction, ``applications`` by what dissection told of them. Times
and gaps are microseconds."""


_WHOLE = np.dtype(f"V{FLOW.itemsize}")


def put(flows: npt.NDArray[np.void], at: npt.NDArray[np.integer], rows: npt.NDArray[np.void]) -> None:
    """Write whole rows. Assigned to a structured array, each of their fields would be copied by itself."""
    flows.view(_WHOLE)[at] = rows.view(_WHOLE)


def joined(flows: list[npt.NDArray[np.void]]) -> npt.NDArray[np.void]:
    """Return several lots of flows as one."""
    return np.concatenate([some.view(_WHOLE) for some in flows]).view(FLOW)


def blank(n: int) -> npt.NDArray[np.void]:
    """Return ``n`` flows without packets."""
    flows = np.zeros(n, dtype=FLOW)
    flows["window"] = -1
    flows["isn"] = -1
    flows["gap_min"] = NONE
    flows["least"] = NONE
    flows["top"] = -1
    return flows


def _flag_pairs() -> U64:
    """Return for each flag byte what it adds to the three pairs of counters, shape (256, 3)."""
    flags = np.arange(256, dtype=np.uint64)

    def bit(number: int) -> U64:
        return (flags >> np.uint64(number)) & np.uint64(1)

    high = np.uint64(32)
    return np.stack([bit(1) | bit(4) << high, bit(0) | bit(2) << high, bit(3) | bit(5) << high])


FLAG_PAIRS = _flag_pairs()


def summands(ip_len: I64, payload_len: I64, gap: I64, flags: npt.NDArray[np.uint8]) -> U64:
    """Return what each packet adds to the sums of its direction, shape ``(len(SUMS), n)``, in the order of ``SUMS``."""
    out = np.empty((len(SUMS), len(ip_len)), dtype=np.uint64)
    out[0] = 1
    out[1] = ip_len
    out[2] = payload_len
    out[3] = payload_len != 0
    np.multiply(out[1], out[1], out=out[4])
    out[5] = gap
    np.multiply(out[5], out[5], out=out[5])
    np.take(FLAG_PAIRS, flags, axis=1, out=out[6:9])
    return out


def merge(new: npt.NDArray[np.void], old: npt.NDArray[np.void]) -> None:
    """Add the counters of flows' earlier packets to those of their later ones, in place in ``new``."""
    began = old["sums"][:, :, 0] != 0
    goes_on = new["sums"][:, :, 0] != 0
    new["side_first"] = np.where(began, old["side_first"], new["side_first"])
    new["side_last"] = np.where(goes_on, new["side_last"], old["side_last"])
    new["sums"] += old["sums"]
    for name in ("least", "gap_min"):
        new[name] = np.minimum(new[name], old[name])
    for name in ("greatest", "gap_max"):
        new[name] = np.maximum(new[name], old[name])
    for name in ("gap_squares", "retransmitted", "applications"):
        new[name] += old[name]
    new["first"] = old["first"]
