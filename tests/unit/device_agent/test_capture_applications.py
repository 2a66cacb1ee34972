"""What the dissector makes of payloads, real ones and hostile ones."""

import random

import pytest

from device_agent.capture.applications import ScapyDissector
from device_agent.flows.applications import Kind, bits_of

READ = ScapyDissector()
CONNECT = bytes.fromhex("100f00044d5154540402003c0003646576")
PUBLISH = bytes.fromhex("3008000361") + b"/bxyz"
SUBSCRIBE = bytes.fromhex("8206000300016100")
QUERY = bytes.fromhex("00050100000100000000000006646576696365076578616d706c6503636f6d0000010001")
FAILURE = bytes.fromhex("000581830001000000000000") + QUERY[12:]
ANSWER = bytes.fromhex("000581800001000100000000") + QUERY[12:]
BOOTP = bytes([1, 1, 6, 0]) + b"\x01\x02\x03\x04" + bytes(228)
HELLO = bytes.fromhex("1603010006010000020303")


@pytest.mark.parametrize(
    ("kind", "payload", "bits"),
    [
        (Kind.MQTT, CONNECT, bits_of("mqtt_connect")),
        (Kind.MQTT, PUBLISH, bits_of("mqtt_publish")),
        (Kind.MQTT, SUBSCRIBE, bits_of("mqtt_subscribe")),
        (Kind.MQTT, CONNECT + SUBSCRIBE + PUBLISH, bits_of("mqtt_connect", "mqtt_subscribe", "mqtt_publish")),
        (Kind.MQTT, b"\xc0\x00", 0),
        (Kind.MQTT, b"\x40\x02\x00\x01" * 20 + CONNECT, 0),
        (Kind.MQTT, PUBLISH + b"\x00\x00", bits_of("mqtt_publish")),
        (Kind.MQTT, b"\x30\xff\xff\x03\x00\x03a/b" + b"x" * 20, bits_of("mqtt_publish")),
        (Kind.COAP, b"\x40\x01\x00\x07\xb4time", bits_of("coap_request")),
        (Kind.COAP, b"\x60\x45\x00\x07\xff22", bits_of("coap_response")),
        (Kind.COAP, b"\x60\x84\x00\x07", bits_of("coap_response")),
        (Kind.COAP, b"\x40\x00\x00\x07", 0),
        (Kind.DNS, QUERY, bits_of("dns_query")),
        (Kind.DNS, FAILURE, bits_of("dns_failure")),
        (Kind.DNS, ANSWER, 0),
        (Kind.DNS, FAILURE[:12], bits_of("dns_failure")),
        (Kind.MDNS, ANSWER, bits_of("discovery")),
        (Kind.SSDP, b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\r\n", bits_of("discovery")),
        (Kind.SSDP, b"HTTP/1.1 200 OK\r\n\r\n", bits_of("discovery")),
        (Kind.DHCP, BOOTP + b"\x63\x82\x53\x63\x35\x01\x01\xff", bits_of("dhcp")),
        (Kind.DHCP, BOOTP[:200], bits_of("dhcp")),
        (Kind.DHCP6, b"\x01\x10\x08\x74", bits_of("dhcp")),
        (Kind.TLS, HELLO, bits_of("tls_hello")),
        (Kind.TLS, HELLO[:5] + b"\x02" + HELLO[6:], bits_of("tls_hello")),
        (Kind.TLS, HELLO[:5] + b"\x0b" + HELLO[6:], 0),
    ],
)
def test_messages(kind: Kind, payload: bytes, bits: int) -> None:
    assert READ.dissect(kind, payload) == bits


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Kind.MQTT, b"GET / HTTP/1.1\r\n"),
        (Kind.MQTT, b"\x00\x00"),
        (Kind.MQTT, b"\x10"),
        (Kind.MQTT, b"\x10\xff\xff\xff\xff\x01"),
        (Kind.MQTT, b"\x11" + CONNECT[1:]),
        (Kind.MQTT, CONNECT.replace(b"MQTT", b"HTTP")),
        (Kind.MQTT, b"\x36" + PUBLISH[1:]),
        (Kind.MQTT, b"\x30\x08\x00\x09a/bxyz"),
        (Kind.MQTT, b"\x30\x05\x00\x03a/#"),
        (Kind.MQTT, b"\x80" + SUBSCRIBE[1:]),
        (Kind.COAP, b"\x80\x01\x00\x07"),
        (Kind.COAP, b"\x49\x01\x00\x07"),
        (Kind.COAP, b"\x40\x21\x00\x07"),
        (Kind.COAP, b"\x40"),
        (Kind.DNS, QUERY[:11]),
        (Kind.DNS, QUERY[:4] + b"\x00\x00" + QUERY[6:]),
        (Kind.MDNS, b"\x00\x00\x28\x00" + QUERY[4:]),
        (Kind.SSDP, b"GET / HTTP/1.1\r\n"),
        (Kind.DHCP, b"\x03" + BOOTP[1:]),
        (Kind.DHCP, BOOTP + b"\x00\x00\x00\x00"),
        (Kind.DHCP, BOOTP[:6]),
        (Kind.DHCP6, b"\x00\x10\x08\x74"),
        (Kind.TLS, b"\x16\x02" + HELLO[2:]),
        (Kind.TLS, b"\x16\x03\x01"),
    ],
)
def test_something_else(kind: Kind, payload: bytes) -> None:
    assert READ.dissect(kind, payload) is None


def test_nothing_raises() -> None:
    """Twenty thousand payloads: random ones, and good ones with some bytes changed or cut off."""
    draw = random.Random(4)  # noqa: S311 - a fixed sequence
    good = [CONNECT, PUBLISH * 50, SUBSCRIBE, QUERY, FAILURE, BOOTP, HELLO]
    for number in range(20_000):
        payload = bytearray(draw.choice(good) if number % 2 else draw.randbytes(draw.randrange(1, 64)))
        for _ in range(draw.randrange(4)):
            payload[draw.randrange(len(payload))] = draw.randrange(256)
        bits = READ.dissect(draw.choice(list(Kind)), bytes(payload[: draw.randrange(1, len(payload) + 1)]))
        assert bits is None or 0 <= bits < 1 << 10


def test_a_failure_of_the_library_is_a_malformed_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    dissector = ScapyDissector()

    def fails(_payload: bytes) -> None:
        raise RecursionError

    monkeypatch.setattr(dissector._dns, "read", fails)
    assert dissector.dissect(Kind.DNS, QUERY) is None


def test_what_is_remembered_of_heads_changes_nothing():
    """Any payload says what it says to a dissector without a memory, whichever heads were seen before."""
    rng, remembers, forgets = random.Random(5), ScapyDissector(), ScapyDissector()  # noqa: S311
    for head in (forgets._mqtt, forgets._coap, forgets._dns, forgets._bootp):
        head.read = head._read
    seen = set()
    for _ in range(6_000):
        kind = rng.choice((Kind.MQTT, Kind.DNS, Kind.MDNS, Kind.COAP, Kind.DHCP))
        size = rng.choice((0, 1, 3, 4, 11, 12, 13, 40, 50))
        payload = bytes(rng.choice((0, 0, 1, 0x30, 0x40, 0x60, 0x80, 0x84, rng.randrange(256))) for _ in range(size))
        want = forgets.dissect(kind, payload)
        assert remembers.dissect(kind, payload) == want, (kind, payload)
        seen.add((kind, want))
    assert len(seen) >= 13
