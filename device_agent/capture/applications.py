"""Application payloads to what they are, by fields of Scapy. Only selected packets come here, never all.

Payloads are hostile and may be cut short by the capture. So only the head of a message is read, which is always there
and takes bounded time: options, names and records are left alone. Of an MQTT segment, up to ``_MAX_MESSAGES`` messages
are read, each where the one before it ends; a segment that continues a long message is malformed or, if its bytes
happen to look like a message, one of these.
"""

from typing import TYPE_CHECKING

from device_agent.flows.applications import Kind, bits_of

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_MESSAGES = 8
_CONNECT, _PUBLISH, _SUBSCRIBE = 1, 3, 8
_MQTT_BITS = {
    _CONNECT: bits_of("mqtt_connect"),
    _PUBLISH: bits_of("mqtt_publish"),
    _SUBSCRIBE: bits_of("mqtt_subscribe"),
}
_MQTT_NAMES = (b"\x00\x04MQTT", b"\x00\x06MQIsdp")
_MQTT_HEAD = 5
_NO_MESSAGE = (0,)
_QOS_1 = (6, 8, 10)
"""PUBREL, SUBSCRIBE and UNSUBSCRIBE are of QoS 1, all others but PUBLISH of 0."""
_COAP_BITS = {0: bits_of("coap_request"), **dict.fromkeys((2, 4, 5), bits_of("coap_response"))}
_QUERY, _FAILURE, _DISCOVERY = bits_of("dns_query"), bits_of("dns_failure"), bits_of("discovery")
_SSDP = (b"M-SEARCH * HTTP/1.1", b"NOTIFY * HTTP/1.1", b"HTTP/1.1 200 OK")
_HELLO, _DHCP = bits_of("tls_hello"), bits_of("dhcp")
_HELLOS = (1, 2)
_LEAST_DHCP = 44
_DHCP_COOKIE_AT, _DHCP_COOKIE = 236, b"\x63\x82\x53\x63"
_DHCP6_TYPES = range(1, 37)


class ScapyDissector:
    """Reads payloads with Scapy; see ``device_agent.flows.applications.Dissector``.

    Making one loads Scapy's packets and fields, about 3 MB, and none of its layers. Heads without message numbers are
    few, so what they say is remembered: a head that is known takes a microsecond, another one fifty.

    Attributes
    ----------
    by_head
        True: see ``Dissector``. Who asks for one more byte here has to take it in ``flows/fast/heads.c`` too.
    """

    by_head = True

    def __init__(self) -> None:
        from device_agent.capture import heads  # noqa: PLC0415 - loads Scapy, where payloads are read

        self._mqtt = heads.Head(heads.MqttHead, ("type", "DUP", "QOS", "RETAIN", "len"))
        self._coap = heads.Head(heads.CoapHead, ("ver", "tkl", "code"))
        self._dns = heads.Head(heads.DnsHead, ("qr", "opcode", "rcode", "qdcount", "arcount"))
        self._bootp = heads.Head(heads.BootpHead, ("op", "hlen", "hops"))
        self._readers: dict[Kind, Callable[[bytes], int | None]] = {
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
                head, size = self._mqtt.read(payload[at : at + _MQTT_HEAD])
                found = _mqtt_bits(head, payload[at + size :])
            except Exception:  # noqa: BLE001 - as above
                found, head, size = None, _NO_MESSAGE, 0
            if found is None:
                # What came before holds.
                return bits if at else None
            bits, at = bits | found, at + size + head[-1]
        return bits

    def _read_coap(self, payload: bytes) -> int | None:
        (version, token, code), _ = self._coap.read(payload[:2])
        if version != 1 or token > 8 or len(payload) < 4:
            return None
        if not code:
            return 0
        return _COAP_BITS.get(code >> 5)

    def _read_dns(self, payload: bytes) -> int | None:
        (is_answer, opcode, failure, questions, _), _ = self._dns.read(payload[2:12])
        if is_answer:
            return _FAILURE if failure else 0
        if not questions or failure:
            return None
        return 0 if opcode else _QUERY

    def _read_mdns(self, payload: bytes) -> int | None:
        (_, opcode, failure, _, _), _ = self._dns.read(payload[2:12])
        return None if opcode or failure else _DISCOVERY

    def _read_dhcp(self, payload: bytes) -> int | None:
        (operation, address_bytes, _), _ = self._bootp.read(payload[:4])
        cookie = payload[_DHCP_COOKIE_AT : _DHCP_COOKIE_AT + 4]
        fits = operation in (1, 2) and address_bytes <= 16 and len(payload) >= _LEAST_DHCP
        return _DHCP if fits and _DHCP_COOKIE.startswith(cookie) else None


def _mqtt_bits(head: tuple[int, ...], body: bytes) -> int | None:
    """Return the bits of one message, of which the body may be cut short; None if it is none."""
    kind, again, qos, retain, size = head
    if kind == _PUBLISH:
        topic = int.from_bytes(body[:2])
        fits = len(body) >= 2 and topic + 2 <= size and qos < 3
        return _MQTT_BITS[_PUBLISH] if fits and not set(body[2 : 2 + topic]) & {0, *b"#+"} else None
    if not kind or again or retain or qos != int(kind in _QOS_1):
        return None
    if kind == _CONNECT and not body.startswith(_MQTT_NAMES):
        return None
    if kind == _SUBSCRIBE and (size < 5 or len(body) < 2):
        return None
    return _MQTT_BITS.get(kind, 0)


def _read_ssdp(payload: bytes) -> int | None:
    return _DISCOVERY if payload.startswith(_SSDP) else None


def _read_dhcp6(payload: bytes) -> int | None:
    return _DHCP if len(payload) >= 4 and payload[0] in _DHCP6_TYPES else None


def _read_tls(payload: bytes) -> int | None:
    """Read a record of handshake messages by hand: Scapy's layer of TLS would load cryptography."""
    if len(payload) < 6 or payload[1] != 3 or int.from_bytes(payload[3:5]) < 4:
        return None
    return _HELLO if payload[5] in _HELLOS else 0
