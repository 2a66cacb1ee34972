"""The feature schema: one ordered table, and its digest.

A flow record carries the features below, in this order, in raw units as float64. What enters a model is their
fixed transform (``contract.transform``). Addresses and ports identify flows; they are no features.

Sizes are IP total lengths (``*_bytes``, ``*_len_*``) or transport payload from header lengths (``*_payload_*``), so
link types and Ethernet padding never show. Times are seconds. A standard deviation is the sample one
(divisor n - 1), 0 for fewer than two values. ``fwd`` is the direction of the initiator: the sender of the SYN, else of
the flow's first packet; a first packet with SYN and ACK means that its receiver is the initiator.
"""

from dataclasses import dataclass
from typing import Literal

from contract.canonical import canonical_json, sha256_hex

Kind = Literal["log", "binary"]


@dataclass(frozen=True, slots=True)
class Feature:
    """One column.

    Attributes
    ----------
    name
        Column name.
    unit
        ``1`` (a count or flag), ``B``, ``s``, ``B/s``, ``1/s``, ``bit``.
    kind
        ``log``: compressed by ``log1p``; ``binary``: 0 or 1.
    per_unit
        Factor before ``log1p``: the resolution that matters (1e6 for seconds: one microsecond counts as 1).
    ceiling
        Raw value that maps to the top of the range; larger ones are clipped.
    meaning
        What is counted, and how it can mislead.
    """

    name: str
    unit: str
    kind: Kind
    per_unit: int
    ceiling: int
    meaning: str


def _count(name: str, ceiling: int, meaning: str) -> Feature:
    return Feature(name, "1", "log", 1, ceiling, meaning)


def _binary(name: str, meaning: str) -> Feature:
    return Feature(name, "1", "binary", 1, 1, meaning)


def _size(name: str, ceiling: int, meaning: str) -> Feature:
    return Feature(name, "B", "log", 1, ceiling, meaning)


def _time(name: str, meaning: str) -> Feature:
    return Feature(name, "s", "log", 1_000_000, 3_600, meaning)


def _statistics(prefix: str, of: str, *, kind: Literal["len", "iat"]) -> tuple[Feature, ...]:
    names = ("min", "max", "mean", "std")
    if kind == "len":
        return tuple(_size(f"{prefix}_len_{n}", 65_535, f"{n} of the IP total lengths of {of}") for n in names)
    return tuple(_time(f"{prefix}_iat_{n}_s", f"{n} of the gaps between {of}; 0 for one packet") for n in names)


APPLICATIONS: tuple[tuple[str, str], ...] = (
    ("mqtt_connect", "an MQTT CONNECT"),
    ("mqtt_publish", "an MQTT PUBLISH"),
    ("mqtt_subscribe", "an MQTT SUBSCRIBE"),
    ("coap_request", "a CoAP request"),
    ("coap_response", "a CoAP response"),
    ("dns_query", "a DNS query"),
    ("dns_failure", "a DNS answer with an error code, as for a name that does not exist"),
    ("discovery", "an mDNS or SSDP message"),
    ("tls_hello", "a TLS client or server hello"),
    ("dhcp", "a DHCP message"),
)
"""What application dissection tells of a packet, and in which words; the order is that of the bits of a packet."""

_DIRECTIONS = (("all", "all packets"), ("fwd", "forward packets"), ("bwd", "backward packets"))
_FLAGS = ("syn", "ack", "fin", "rst", "psh", "urg")

FEATURES: tuple[Feature, ...] = (
    _binary("proto_tcp", "the transport is TCP"),
    _binary("proto_udp", "the transport is UDP"),
    _binary("proto_icmp", "the transport is ICMP or ICMPv6"),
    _count("fwd_pkts", 1_000_000, "forward packets"),
    _count("bwd_pkts", 1_000_000, "backward packets"),
    _size("fwd_bytes", 1_000_000_000, "sum of forward IP total lengths"),
    _size("bwd_bytes", 1_000_000_000, "sum of backward IP total lengths"),
    _size("fwd_payload_bytes", 1_000_000_000, "forward transport payload"),
    _size("bwd_payload_bytes", 1_000_000_000, "backward transport payload"),
    _count("fwd_payload_pkts", 1_000_000, "forward packets with payload"),
    _count("bwd_payload_pkts", 1_000_000, "backward packets with payload"),
    _time("duration_s", "last minus first packet time; a part of a long flow has its own"),
    _time("fwd_duration_s", "last minus first forward packet time"),
    _time("bwd_duration_s", "last minus first backward packet time"),
    Feature("bytes_per_s", "B/s", "log", 1, 1_000_000_000, "all bytes by duration; by 1 us if that is 0"),
    Feature("pkts_per_s", "1/s", "log", 1, 1_000_000, "all packets by duration; by 1 us if that is 0"),
    Feature("fwd_bytes_per_s", "B/s", "log", 1, 1_000_000_000, "forward bytes by duration, as above"),
    Feature("bwd_bytes_per_s", "B/s", "log", 1, 1_000_000_000, "backward bytes by duration, as above"),
    Feature("down_up_ratio", "1", "log", 100, 1_000, "backward by forward packets; 0 without forward ones"),
    *(f for prefix, of in _DIRECTIONS for f in _statistics(prefix, of, kind="len")),
    *(f for prefix, of in _DIRECTIONS for f in _statistics(prefix, of, kind="iat")),
    *(
        _count(f"{direction}_{flag}_pkts", 1_000_000, f"{direction} packets with TCP flag {flag.upper()}")
        for direction in ("fwd", "bwd")
        for flag in _FLAGS
    ),
    _count("fwd_init_win", 65_535, "window field of the first forward TCP packet, unscaled; 0 without TCP"),
    _count("bwd_init_win", 65_535, "window field of the first backward TCP packet, unscaled; 0 without TCP"),
    _binary("handshake_done", "SYN, SYN-ACK and ACK were seen; 0 for flows met in mid-stream"),
    _count("fwd_retrans_pkts", 1_000_000, "forward TCP segments whose payload brings no byte beyond the highest seen"),
    _count("bwd_retrans_pkts", 1_000_000, "backward TCP segments whose payload brings no byte beyond the highest seen"),
    *(
        _count(f"{kind}_pkts", 10_000, f"packets with {what}; up to the dissection budget")
        for kind, what in APPLICATIONS
    ),
    _count(
        "initiator_flows",
        10_000,
        "flows that the same initiator opened in the current and the last 10 s window, this one included",
    ),
    _count("initiator_peers", 1_000, "distinct responders among them; saturates at 1,000"),
    _count("initiator_ports", 1_000, "distinct responder ports among them; saturates at 1,000"),
    _count(
        "initiator_failed",
        10_000,
        "others among them without any packet back but a RST when this one opened; flows to a group never have one",
    ),
    _count(
        "initiator_new_peers",
        1_000,
        "responders among them that the initiator had not met before in this and the last hour of the packet clock; "
        "saturates at 1,000, as does what an hour remembers",
    ),
    Feature(
        "initiator_peer_entropy_bits", "bit", "log", 10, 10, "Shannon entropy of their responders, as far as counted"
    ),
    Feature(
        "initiator_port_entropy_bits", "bit", "log", 10, 10, "Shannon entropy of their responder ports, without port 0"
    ),
)
"""The schema, in order."""

NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
INDEX: dict[str, int] = {name: index for index, name in enumerate(NAMES)}
N_FEATURES = len(FEATURES)
SPAN = 3
"""Top of the transformed range: a model input lies in [0, SPAN]."""
TRANSFORM_VERSION = 1
WINDOW_S = 10
"""Length of the tumbling windows behind the ``initiator_*`` features."""

SCHEMA_ID = sha256_hex(
    canonical_json(
        {
            "transform": TRANSFORM_VERSION,
            "span": SPAN,
            "window_s": WINDOW_S,
            "features": [[f.name, f.unit, f.kind, f.per_unit, f.ceiling] for f in FEATURES],
        }
    )
)
"""Digest of the table and the transform; two sides with different ids cannot share models."""


def render_markdown() -> str:
    """Return the table as a Markdown page (``docs/features.md`` is generated from it)."""
    lines = [
        "# Feature schema",
        "",
        f"{N_FEATURES} features, schema id `{SCHEMA_ID}`. Generated from `contract/features.py`; do not edit.",
        "",
        (
            f"A model sees `{SPAN} * min(1, log1p(value * per_unit) / log1p(ceiling * per_unit))`, or "
            f"`{SPAN} * value` for binary features. Negative and non-finite values become 0 and are counted."
        ),
        "",
        "| # | name | unit | kind | per unit | ceiling | meaning |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {i} | `{f.name}` | {f.unit} | {f.kind} | {f.per_unit:,} | {f.ceiling:,} | {f.meaning} |"
        for i, f in enumerate(FEATURES)
    ]
    return "\n".join(lines) + "\n"
