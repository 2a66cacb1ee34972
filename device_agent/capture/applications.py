"""Application payloads to what they are, by the fields of Scapy's layers. Only selected packets come here, never all.

Payloads are hostile and may be cut short by the capture. So only the head of a message is read, which is always there
and takes bounded time: options, names and records are left alone. Of an MQTT segment, up to ``_MAX_MESSAGES`` messages
are read, each where the one before it ends; a segment that continues a long message is malformed or, if its bytes
happen to look like a message, one of these.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from device_agent.capture import scapy_setup  # noqa: F401 - before any other module of Scapy
from device_agent.flows.applications import Kind, bits_of

if TYPE_CHECKING:
    from scapy.packet import Packet

_MAX_MESSAGES = 8

_CONNECT, _PUBLISH, _SUBSCRIBE = 1, 3, 8
_MQTT_BITS = {
    _CONNECT: bits_of("mqtt_connect"),
    _PUBLISH: bits_of("mqtt_publish"),
    _SUBSCRIBE: bits_of("mqtt_subscribe"),
}
_MQTT_NAMES = (b"\x00\x04MQTT", b"\x00\x06MQIsdp")
_QOS_1 = (6, 8, 10)
"""PUBREL, SUBSCRIBE and UNSUBSCRIBE are of QoS 1, all others but PUBLISH of 0."""
_COAP_BITS = {0: bits_of("coap_request"), **dict.fromkeys((2, 4, 5), bits_of("coap_response"))}
_QUERY, _FAILURE, _DISCOVERY = bits_of("dns_query"), bits_of("dns_failure"), bits_of("discovery")
_SSDP = (b"M-SEARCH * HTTP/1.1", b"NOTIFY * HTTP/1.1", b"HTTP/1.1 200 OK")
_HELLO, _DHCP = bits_of("tls_hello"), bits_of("dhcp")
_HELLOS = (1, 2)
_DHCP_COOKIE_AT, _DHCP_COOKIE = 236, b"\x63\x82\x53\x63"
_DHCP6_TYPES = range(1, 37)

_COAP_BYTES, _DNS_BYTES, _BOOTP_BYTES = 4, 12, 28
"""Lengths of the heads: the fields that are dissected."""
_DNS_FACTS = slice(2, 6)
_HEADS = 1_024
"""Heads whose meaning is remembered, of each kind."""

_Read = Callable[[bytes], int | None]


class ScapyDissector:
    """Reads payloads with Scapy; see ``device_agent.flows.applications.Dissector``.

    Scapy's application layers are loaded by making one, about 6 MB.
    """

    def __init__(self) -> None:
        from scapy.contrib.coap import CoAP  # noqa: PLC0415 - loaded where payloads are read
        from scapy.contrib.mqtt import MQTT  # noqa: PLC0415
        from scapy.layers.dhcp import BOOTP  # noqa: PLC0415
        from scapy.layers.dns import DNS  # noqa: PLC0415

        self._mqtt = _head(MQTT, "type", "len")
        self._coap = _head(CoAP, "ver", "msg_id")
        self._dns = _head(DNS, "id", "arcount")
        self._bootp = _head(BOOTP, "op", "giaddr")
        remember = lru_cache(maxsize=_HEADS)
        self._coap_bits, self._bootp_bits = remember(self._coap_bits_of), remember(self._bootp_bits_of)
        self._dns_bits, self._mdns_bits = remember(self._dns_bits_of), remember(self._mdns_bits_of)
        self._readers: dict[Kind, _Read] = {
            Kind.MQTT: self._read_mqtt,
            Kind.COAP: self._read_coap,
            Kind.DNS: self._read_dns,
            Kind.MDNS: self._read_mdns,
            Kind.SSDP: _read_ssdp,
            Kind.DHCP: self._read_dhcp,
            Kind.DHCP6: _read_dhcp6,
            Kind.TLS: _read_tls,
        }

    def dissect(self, kind: Kind, payload: bytes) -> int | None:
        """Return the bits of a payload, None if it is not what it claims to be; see ``Dissector``."""
        try:
            return self._readers[kind](payload)
        except Exception:  # noqa: BLE001 - Scapy raises what it likes on hostile bytes
            return None

    def _read_mqtt(self, payload: bytes) -> int | None:
        bits, at = 0, 0
        for _ in range(_MAX_MESSAGES):
            if at >= len(payload):
                break
            try:
                message = self._mqtt(payload[at:])
                body = bytes(message.payload)
                found = _mqtt_bits(message, body)
                after = len(payload) - len(body) + int(message.len)
            except Exception:  # noqa: BLE001 - as above
                found, after = None, 0
            if found is None:
                # What came before holds.
                return bits if at else None
            bits, at = bits | found, after
        return bits

    def _read_coap(self, payload: bytes) -> int | None:
        return self._coap_bits(_blanked(payload[:_COAP_BYTES], _COAP_BYTES, slice(0, 2)))

    def _read_dns(self, payload: bytes) -> int | None:
        return self._dns_bits(_blanked(payload[:_DNS_BYTES], _DNS_BYTES, _DNS_FACTS))

    def _read_mdns(self, payload: bytes) -> int | None:
        return self._mdns_bits(_blanked(payload[:_DNS_BYTES], _DNS_BYTES, _DNS_FACTS))

    def _read_dhcp(self, payload: bytes) -> int | None:
        cookie = payload[_DHCP_COOKIE_AT : _DHCP_COOKIE_AT + 4]
        if not _DHCP_COOKIE.startswith(cookie):
            return None
        return self._bootp_bits(_blanked(payload[:_BOOTP_BYTES], _BOOTP_BYTES, slice(0, 3)))

    def _coap_bits_of(self, payload: bytes) -> int | None:
        head = self._coap(payload)
        if head.ver != 1 or head.tkl > 8:
            return None
        if not head.code:
            return 0
        return _COAP_BITS.get(head.code >> 5)

    def _dns_bits_of(self, payload: bytes) -> int | None:
        head = self._dns(payload)
        if head.qr:
            return _FAILURE if head.rcode else 0
        if not head.qdcount or head.rcode:
            return None
        return 0 if head.opcode else _QUERY

    def _mdns_bits_of(self, payload: bytes) -> int | None:
        head = self._dns(payload)
        return None if head.opcode or head.rcode else _DISCOVERY

    def _bootp_bits_of(self, payload: bytes) -> int | None:
        head = self._bootp(payload)
        return _DHCP if head.op in (1, 2) and head.hlen <= 16 else None


def _head(layer: "type[Packet]", first: str, last: str) -> "type[Packet]":
    """Return a layer of the fields of another one from ``first`` to ``last``; what follows is payload."""
    from scapy.packet import Packet  # noqa: PLC0415

    names = [field.name for field in layer.fields_desc]
    fields = layer.fields_desc[names.index(first) : names.index(last) + 1]
    return type(f"{layer.__name__}Head", (Packet,), {"name": f"head of {layer.__name__}", "fields_desc": fields})


def _blanked(head: bytes, size: int, facts: slice) -> bytes:
    """Return a whole head with all but ``facts``, the bytes that decide, set to 0; a cut one as it is.

    Identifiers and counts go, so that heads are few, and each is dissected by Scapy once.
    """
    if len(head) < size:
        return head
    return bytes(facts.start) + head[facts] + bytes(size - facts.stop)


def _mqtt_bits(message: "Packet", body: bytes) -> int | None:
    """Return the bits of one message, of which the body may be cut short; None if it is none."""
    if message.type == _PUBLISH:
        topic = int.from_bytes(body[:2])
        fits = len(body) >= 2 and topic + 2 <= message.len and message.QOS < 3
        return _MQTT_BITS[_PUBLISH] if fits and not set(body[2 : 2 + topic]) & {0, *b"#+"} else None
    if not message.type or message.DUP or message.RETAIN or int(message.type in _QOS_1) != message.QOS:
        return None
    if message.type == _CONNECT and not body.startswith(_MQTT_NAMES):
        return None
    if message.type == _SUBSCRIBE and (message.len < 5 or len(body) < 2):
        return None
    return _MQTT_BITS.get(message.type, 0)


def _read_ssdp(payload: bytes) -> int | None:
    return _DISCOVERY if payload.startswith(_SSDP) else None


def _read_dhcp6(payload: bytes) -> int | None:
    return _DHCP if len(payload) >= 4 and payload[0] in _DHCP6_TYPES else None


def _read_tls(payload: bytes) -> int | None:
    """Read a record of handshake messages by hand: Scapy's layer of TLS would load cryptography."""
    if len(payload) < 6 or payload[1] != 3 or int.from_bytes(payload[3:5]) < 4:
        return None
    return _HELLO if payload[5] in _HELLOS else 0
