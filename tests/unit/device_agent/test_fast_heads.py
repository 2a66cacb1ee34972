"""The memory of known heads: what it takes of a payload, that it keeps few, and that none is taken for another."""

import random

import pytest

from device_agent.capture.applications import ScapyDissector
from device_agent.flows.applications import Kind
from device_agent.flows.fast.engine import FastMeter
from tests.unit.device_agent.engines import column, compiled, run
from tests.unit.device_agent.fast_heads import MALFORMED, SETS, UNKNOWN, WAYS, head, library
from tests.unit.device_agent.frames import tcp, udp
from tests.unit.device_agent.test_capture_applications import (
    ANSWER,
    BOOTP,
    CONNECT,
    FAILURE,
    HELLO,
    PUBLISH,
    QUERY,
    SUBSCRIBE,
)

pytestmark = compiled

COOKIE = bytes.fromhex("63825363")
SEEDS = (
    (Kind.MQTT, CONNECT),
    (Kind.MQTT, CONNECT.replace(b"\x00\x04MQTT", b"\x00\x06MQIsdp")),
    (Kind.MQTT, PUBLISH),
    (Kind.MQTT, PUBLISH * 10),
    (Kind.MQTT, SUBSCRIBE),
    (Kind.MQTT, CONNECT + SUBSCRIBE + PUBLISH + b"\xc0\x00" * 6),
    (Kind.MQTT, b"\xc0\x00" * 7 + PUBLISH),
    (Kind.MQTT, b"\xc0\x00" * 8 + PUBLISH),
    (Kind.MQTT, b"\x32\x80\x04\x00\x03a/b" + bytes(507)),
    (Kind.MQTT, b"\x32\x80\x04\x01\xf8" + b"t" * 507),
    (Kind.COAP, bytes.fromhex("44011234aabbccdd")),
    (Kind.COAP, bytes.fromhex("68451234aabbccdd")),
    (Kind.DNS, QUERY),
    (Kind.DNS, ANSWER),
    (Kind.DNS, FAILURE),
    (Kind.MDNS, QUERY),
    (Kind.MDNS, ANSWER),
    (Kind.SSDP, b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n"),
    (Kind.SSDP, b"NOTIFY * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n"),
    (Kind.SSDP, b"HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\n"),
    (Kind.DHCP, BOOTP),
    (Kind.DHCP, BOOTP + COOKIE + bytes(60)),
    (Kind.DHCP6, b"\x01\x02\x03\x04\x00\x08\x00\x02"),
    (Kind.TLS, HELLO),
    (Kind.TLS, HELLO[:4] + b"\x03" + HELLO[5:]),
)
BYTES = (0, 1, 2, 3, 4, 5, 6, 8, 16, 17, 0x23, 0x2B, 0x30, 0x3C, 0x82, 0x7F, 0x80, 0xFF)


def changed(payload: bytes, rng: random.Random) -> bytes:
    """Return a payload with up to three changes, most of them where heads are."""
    for _ in range(rng.randrange(4)):
        at = min(rng.randrange(len(payload) + 1), rng.choice((2, 6, 14, 24, 512)))
        how = rng.randrange(4)
        if how == 0:
            payload = payload[:at]
        elif how == 1:
            payload = payload[:at] + bytes((rng.choice(BYTES),)) + payload[at + 1 :]
        elif how == 2:
            payload = payload[:at] + bytes((rng.randrange(256),)) + payload[at + 1 :]
        else:
            payload = payload[:at] + bytes((rng.choice(BYTES),)) + payload[at:]
    return payload[:512]


def test_payloads_with_one_head_are_read_alike():
    """What the dissector says depends on nothing but the head, over many payloads of fewer heads."""
    found, rng, c, read = {}, random.Random(5), library(), ScapyDissector()  # noqa: S311 - no secret
    n = 200_000
    for _ in range(n):
        kind, payload = rng.choice(SEEDS)
        payload = changed(payload, rng)
        if payload:
            told = read.dissect(kind, payload)
            assert found.setdefault(head(c, kind, payload), told) == told, (kind, payload.hex())
    answers = {(key[0], told) for key, told in found.items()}
    assert len(answers) > 20, "every kind with all it can be"
    assert len(found) < n / 5


@pytest.mark.parametrize(
    ("kind", "left", "right"),
    [
        (Kind.MQTT, PUBLISH, PUBLISH[:1] + b"\x0a" + PUBLISH[2:6] + b"other"),
        (Kind.MQTT, CONNECT, CONNECT[:-3] + b"cam"),
        (Kind.DNS, QUERY, b"\x77\x77" + QUERY[2:12] + b"another name"),
        (Kind.MDNS, QUERY, b"\x77\x77" + QUERY[2:12] + b"another name"),
        (Kind.COAP, b"\x44\x01\x12\x34abcd", b"\x54\x01\x99\x99"),
        (Kind.DHCP, BOOTP + COOKIE, BOOTP[:4] + b"\x77" * 232 + COOKIE + b"options"),
        (Kind.TLS, HELLO, HELLO[:3] + b"\x02\x00\x01" + b"random"),
        (Kind.SSDP, b"NOTIFY * HTTP/1.1\r\nA", b"NOTIFY * HTTP/1.1\r\nB: 1"),
    ],
)
def test_what_differs_in_names_and_numbers_has_one_head(kind, left, right):
    assert head(library(), kind, left) == head(library(), kind, right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (b"\xc0\x00\x02\xc0\x00", b"\xc0\x00\x82\xff\xff\xff\xff"),
        (b"\x10\x08\x00\x04MQTT\x04\x02", b"\x10\x08\x00\x04MQTS\x04\x02"),
        (b"\x30\x03\x00\x01a", b"\x30\x02\x00\x01a"),
        (b"\xc0\x00" * 7 + b"\x30\x03\x00\x01a", b"\xc0\x00" * 8),
    ],
)
def test_heads_that_say_something_else_are_different(left, right):
    assert head(library(), Kind.MQTT, left) != head(library(), Kind.MQTT, right)


class Memory:
    """A memory of heads that is freed."""

    def __init__(self, seed):
        self._library = library()
        self._memory = self._library.kw_heads_new(seed)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._library.kw_heads_free(self._memory)

    def find(self, kind, payload):
        return self._library.kw_heads_find(self._memory, kind, payload, len(payload))

    def keep(self, found):
        self._library.kw_heads_keep(self._memory, found)


def mixed(word):
    """``mix`` of table.h."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ word >> shift) * factor % 2**64
    return word ^ word >> 31


def colliding(seed, n):
    """Return SSDP payloads of different heads that have one hash, as nobody finds without the seed."""
    # A head is the kind, the size and nineteen bytes; the second word makes good for the first.
    base = [int.from_bytes(part, "little") for part in (b"\x05\x13NOTIFY", b" * HTTP/", b"1.1\r\n")]
    first = mixed((mixed((seed + 21) % 2**64) + base[0]) % 2**64)
    found = []
    for i in range(n):
        other = base[0] ^ i << 16
        second = (first + base[1] - mixed((mixed((seed + 21) % 2**64) + other) % 2**64)) % 2**64
        words = other.to_bytes(8, "little")[2:], second.to_bytes(8, "little"), b"1.1\r\n"
        found.append(b"".join(words))
    return found


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1, 0x9E3779B97F4A7C15])
def test_heads_of_one_hash_are_different(seed):
    """And a set that is full forgets the head that it has had for longest."""
    payloads = colliding(seed, WAYS + 2)
    with Memory(seed) as memory:
        for i, payload in enumerate(payloads[:WAYS]):
            assert memory.find(Kind.SSDP, payload) == UNKNOWN
            memory.keep(i)
        assert [memory.find(Kind.SSDP, payload) for payload in payloads[:WAYS]] == list(range(WAYS))
        for i, payload in enumerate(payloads[WAYS:], WAYS):
            assert memory.find(Kind.SSDP, payload) == UNKNOWN
            memory.keep(i)
        assert [memory.find(Kind.SSDP, payload) for payload in payloads] == [UNKNOWN, UNKNOWN, 2, 3, 4, 5]


def test_heads_of_one_hash_would_be_the_same_without_comparison():
    """The test above is about heads that do share a hash: a memory with another seed keeps them in different sets."""
    payloads = colliding(1, 6)
    with Memory(2) as memory:
        for i, payload in enumerate(payloads):
            memory.find(Kind.SSDP, payload)
            memory.keep(i)
        assert [memory.find(Kind.SSDP, payload) for payload in payloads] == list(range(6))


def test_a_flood_of_heads_pushes_out_old_ones_and_no_more_are_kept():
    n = 3 * SETS * WAYS
    payloads = [b"\x01\x00" + i.to_bytes(4, "big") + b"\x01" + bytes(14) for i in range(n)]
    with Memory(3) as memory:
        for i, payload in enumerate(payloads):
            assert memory.find(Kind.SSDP, payload) == UNKNOWN
            memory.keep(i)
        found = [memory.find(Kind.SSDP, payload) for payload in payloads]
    kept = [i for i, told in enumerate(found) if told != UNKNOWN]
    assert all(found[i] == i for i in kept)
    assert 0.98 * SETS * WAYS < len(kept) <= SETS * WAYS
    assert sum(i < n / 3 for i in kept) < 0.05 * n, "the old ones went"


def test_what_is_malformed_is_known_too():
    with Memory(3) as memory:
        assert memory.find(Kind.DNS, b"?") == UNKNOWN
        memory.keep(MALFORMED)
        assert memory.find(Kind.DNS, b"!") == MALFORMED


class Asked(ScapyDissector):
    """Notes what it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def dissect(self, kind, payload):
        self.asked.append((kind, payload))
        return super().dissect(kind, payload)


def test_a_meter_asks_once_for_a_head_and_counts_each_time():
    dissector = Asked()
    packets = [
        (0.0, udp(payload=QUERY)),
        (0.1, udp(payload=b"\x01\x02" + QUERY[2:])),
        (0.2, udp(payload=b"?")),
        (0.3, udp(payload=b"!")),
        (0.4, tcp(dport=1883, payload=PUBLISH)),
        (0.5, tcp(dport=1883, seq=90, payload=PUBLISH[:-1] + b"!")),
        (0.6, tcp(dport=1883, seq=190, payload=PUBLISH + CONNECT)),
    ]
    flows, counters = run(FastMeter, packets, dissector=dissector, dissect_pps=6)
    assert dissector.asked == [(Kind.DNS, QUERY), (Kind.DNS, b"?"), (Kind.MQTT, PUBLISH)]
    assert (counters.dissected, counters.malformed, counters.undissected) == (6, 2, 1)
    assert column(flows, "dns_query_pkts") == [2, 0]
    assert column(flows, "mqtt_publish_pkts") == [0, 2]
