"""Application messages as bytes: DNS, NTP, mDNS, SSDP, MQTT, CoAP, HTTP, RTSP, RTP, TLS records, Modbus, SNMP.

Only what a device or an attack of this testbed says; every builder is a pure function of its arguments.
"""

import struct
from base64 import b64encode
from typing import Final

DNS_TYPE_A: Final = 1
DNS_TYPE_TXT: Final = 16
MQTT_REFUSED_CREDENTIALS: Final = 5


def _dns_name(name: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split(".")) + b"\0"


def dns_query(ident: int, name: str, kind: int = DNS_TYPE_A) -> bytes:
    """Return a DNS question with recursion desired."""
    return struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, 0) + _dns_name(name) + struct.pack("!HH", kind, 1)


def dns_answer(ident: int, name: str, record: bytes, kind: int = DNS_TYPE_A) -> bytes:
    """Return a DNS answer with one record of a time to live of 300 s; an empty record means NXDOMAIN."""
    flags, count = (0x8180, 1) if record else (0x8183, 0)
    head = struct.pack("!HHHHHH", ident, flags, 1, count, 0, 0) + _dns_name(name) + struct.pack("!HH", kind, 1)
    if not record:
        return head
    return head + struct.pack("!HHHIH", 0xC00C, kind, 1, 300, len(record)) + record


def mdns_announcement(name: str, service: str, port: int) -> bytes:
    """Return an unsolicited mDNS response with PTR and SRV records."""
    instance = _dns_name(f"{name}.{service}")
    srv = struct.pack("!HHH", 0, 0, port) + _dns_name(f"{name}.local")
    return (
        struct.pack("!HHHHHH", 0, 0x8400, 0, 2, 0, 0)
        + _dns_name(service)
        + struct.pack("!HHIH", 12, 1, 4500, len(instance))
        + instance
        + instance
        + struct.pack("!HHIH", 33, 0x8001, 120, len(srv))
        + srv
    )


def ssdp_notify(address: str, kind: str) -> bytes:
    """Return an SSDP alive notification."""
    lines = (
        "NOTIFY * HTTP/1.1",
        "HOST: 239.255.255.250:1900",
        "CACHE-CONTROL: max-age=1800",
        f"LOCATION: http://{address}:49152/description.xml",
        f"NT: urn:schemas-upnp-org:device:{kind}:1",
        "NTS: ssdp:alive",
        f"USN: uuid:4b494e57-0000-1000-8000-{address.replace('.', ''):0>12}::urn:{kind}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def ntp_packet(*, client: bool, stamp_s: float) -> bytes:
    """Return an NTP version 4 request or answer."""
    whole = int(stamp_s) + 2_208_988_800
    stamp = struct.pack("!II", whole & 0xFFFFFFFF, int(stamp_s % 1 * 2**32))
    if client:
        return struct.pack("!BBbb", 0x23, 0, 6, -20) + b"\0" * 36 + stamp
    return struct.pack("!BBbb", 0x24, 2, 6, -20) + b"\0\0\x02\x10\0\0\0\x30\x0a\x14\0\1" + stamp * 4


def _mqtt_text(text: bytes) -> bytes:
    return struct.pack("!H", len(text)) + text


def mqtt_packet(kind_flags: int, body: bytes) -> bytes:
    """Return an MQTT control packet: first byte, remaining length as a varint, body."""
    length, varint = len(body), bytearray()
    while True:
        length, low = divmod(length, 128)
        varint.append(low | (0x80 if length else 0))
        if not length:
            return bytes((kind_flags,)) + bytes(varint) + body


def mqtt_connect(client_id: str, *, user: str = "", password: str = "", keepalive_s: int = 60) -> bytes:
    """Return an MQTT 3.1.1 CONNECT with a clean session."""
    flags = 0x02 | (0xC0 if user else 0)
    body = b"\0\4MQTT\4" + struct.pack("!BH", flags, keepalive_s) + _mqtt_text(client_id.encode())
    if user:
        body += _mqtt_text(user.encode()) + _mqtt_text(password.encode())
    return mqtt_packet(0x10, body)


def mqtt_connack(code: int = 0) -> bytes:
    """Return a CONNACK; code 0 accepts, 5 refuses the credentials."""
    return mqtt_packet(0x20, bytes((0, code)))


def mqtt_publish(topic: str, payload: bytes, packet_id: int = 0, *, qos: int = 1) -> bytes:
    """Return a PUBLISH with quality of service 0, 1 or 2."""
    ident = struct.pack("!H", packet_id) if qos else b""
    return mqtt_packet(0x30 | qos << 1, _mqtt_text(topic.encode()) + ident + payload)


def mqtt_ack(kind_flags: int, packet_id: int) -> bytes:
    """Return PUBACK (0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70)."""
    return mqtt_packet(kind_flags, struct.pack("!H", packet_id))


def mqtt_subscribe(topic: str, packet_id: int) -> bytes:
    """Return a SUBSCRIBE to one filter with QoS 1."""
    return mqtt_packet(0x82, struct.pack("!H", packet_id) + _mqtt_text(topic.encode()) + b"\1")


def mqtt_suback(packet_id: int) -> bytes:
    """Return the SUBACK that grants QoS 1."""
    return mqtt_packet(0x90, struct.pack("!H", packet_id) + b"\1")


MQTT_PINGREQ: Final = b"\xc0\0"
MQTT_PINGRESP: Final = b"\xd0\0"
MQTT_DISCONNECT: Final = b"\xe0\0"


def coap_message(kind: int, code: int, ident: int, path: str, payload: bytes = b"") -> bytes:
    """Return a CoAP message with a two-byte token: kind 0 CON, 1 NON, 2 ACK; code 0x02 POST, 0x44 Changed."""
    head = struct.pack("!BBHH", 0x42 | kind << 4, code, ident, ident ^ 0x5A5A)
    option = bytes((0xB0 | len(path),)) + path.encode() if path else b""
    return head + option + (b"\xff" + payload if payload else b"")


def http_request(method: str, path: str, host: str, *, user: str = "", password: str = "", body: bytes = b"") -> bytes:
    """Return an HTTP/1.1 request, with basic authentication when a user is given."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "User-Agent: http-client/2.1", "Accept: */*"]
    if user:
        lines.append("Authorization: Basic " + b64encode(f"{user}:{password}".encode()).decode())
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def http_response(status: str, body: bytes, kind: str = "application/json") -> bytes:
    """Return an HTTP/1.1 response, for example status ``200 OK``."""
    challenge = '\r\nWWW-Authenticate: Digest realm="device", nonce="4b57"' if status.startswith("401") else ""
    head = f"HTTP/1.1 {status}\r\nServer: httpd/1.4{challenge}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def rtsp_request(method: str, address: str, sequence: int, extra: str = "") -> bytes:
    """Return an RTSP request; ``extra`` is one header line without its line end."""
    lines = [f"{method} rtsp://{address}:554/stream1 RTSP/1.0", f"CSeq: {sequence}", "User-Agent: recorder/3"]
    if extra:
        lines.append(extra)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def rtsp_response(status: str, sequence: int, body: bytes = b"") -> bytes:
    """Return an RTSP response, for example status ``200 OK``."""
    return f"RTSP/1.0 {status}\r\nCSeq: {sequence}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def rtp_packet(sequence: int, stamp: int, payload: bytes, *, marker: bool) -> bytes:
    """Return an RTP packet of payload type 96."""
    head = struct.pack("!BBHII", 0x80, 96 | (0x80 if marker else 0), sequence & 0xFFFF, stamp & 0xFFFFFFFF, 0x4B57)
    return head + payload


def tls_record(kind: int, body: bytes) -> bytes:
    """Return TLS records (22 handshake, 23 application data), cut at 16 KiB."""
    step = 1 << 14
    pieces = [body[offset : offset + step] for offset in range(0, len(body), step)]
    return b"".join(struct.pack("!BHH", kind, 0x0303, len(piece)) + piece for piece in pieces)


def stun_request(transaction: bytes, *, answer: bool = False) -> bytes:
    """Return a STUN binding request or success answer; ``transaction`` is twelve bytes."""
    body = b"\0\x20\0\x08\0\1" + transaction[:6] if answer else b""
    return struct.pack("!HHI", 0x0101 if answer else 0x0001, len(body), 0x2112A442) + transaction + body


def modbus_request(transaction: int, function: int, address: int, value: int) -> bytes:
    """Return a Modbus/TCP request: function 3 reads ``value`` registers, 5 and 6 write one value."""
    return struct.pack("!HHHBBHH", transaction & 0xFFFF, 0, 6, 1, function, address, value)


def modbus_response(transaction: int, function: int, data: bytes) -> bytes:
    """Return a Modbus/TCP response; for function 3 ``data`` are the registers."""
    body = bytes((function, len(data))) + data if function == 3 else bytes((function,)) + data
    return struct.pack("!HHHB", transaction & 0xFFFF, 0, len(body) + 1, 1) + body


def snmp_get(request_id: int, value: bytes = b"") -> bytes:
    """Return an SNMP v2c get of sysUpTime, or its response when a value (up to 60 bytes) is given."""
    bound = b"\x06\x08\x2b\x06\x01\x02\x01\x01\x03\x00" + (bytes((4, len(value))) + value if value else b"\x05\0")
    bound = bytes((0x30, len(bound))) + bound
    body = b"\x02\x02" + struct.pack("!H", request_id & 0x7FFF) + b"\x02\x01\0\x02\x01\0"
    body += bytes((0x30, len(bound))) + bound
    pdu = bytes((0xA2 if value else 0xA0, len(body))) + body
    message = b"\x02\x01\x01\x04\x06public" + pdu
    return bytes((0x30, len(message))) + message
