"""Ending the live connection of a device whose certificate was revoked.

MQTT brokers look at certificates when a client connects, so a revocation alone leaves who is in. The broker takes the
client id from the certificate and keeps one connection for each id: whoever connects with a fresh certificate of the
same name ends the old connection. With a clean session it ends what waits for the device as well.
"""

import socket
import ssl
import struct
from pathlib import Path

from contract.codec import encode
from contract.messages import Status
from contract.topics import STATUS
from gateway.errors import PkiError

_PATIENCE_S = 10.0
_CONNECT, _PUBLISH_RETAINED, _DISCONNECT = 0x10, 0x31, b"\xe0\x00"
_CONNACK_BYTES, _ACCEPTED = 4, b"\x20\x02\x00\x00"
_CLEAN_SESSION = 0x02
_KEEPALIVE_S = 10


def take_over(name: str, *, host: str, port: int, authority: Path, certificate: Path, key: Path) -> None:
    """Connect as ``name``, leave a status that says why the device is gone, and disconnect.

    Parameters
    ----------
    name
        Device id.
    host, port
        The broker's TLS listener.
    authority, certificate, key
        Files; the certificate is one for ``name``.

    Raises
    ------
    PkiError
        If the broker cannot be reached or does not let the certificate in.
    """
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The name may be an address that the broker's certificate does not list; that our authority signed it is enough.
    context.check_hostname = False
    status = Status(device_id=name, session="revoked", state="disconnected", reason="the certificate was revoked")
    try:
        context.load_cert_chain(certificate, key)
        with (
            socket.create_connection((host, port), timeout=_PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as broker,
        ):
            broker.sendall(_connect(name))
            answer = broker.recv(_CONNACK_BYTES)
            if answer != _ACCEPTED:
                raise PkiError(f"{host}:{port}: the broker does not let {name} in to end its connection: {answer!r}")
            broker.sendall(_publish(STATUS.of(device=name), encode(status)) + _DISCONNECT)
            broker.settimeout(1.0)
            while broker.recv(1_024):
                pass
    except (OSError, ssl.SSLError) as error:
        raise PkiError(
            f"{host}:{port}: the connection of {name} could not be ended ({error}); restart the broker, its clients "
            "come back by themselves"
        ) from None


def _connect(name: str) -> bytes:
    """Return an MQTT 3.1.1 CONNECT with a clean session."""
    body = _text("MQTT") + bytes([4, _CLEAN_SESSION]) + struct.pack("!H", _KEEPALIVE_S) + _text(name)
    return bytes([_CONNECT]) + _length(len(body)) + body


def _publish(topic: str, payload: bytes) -> bytes:
    """Return a retained PUBLISH of QoS 0."""
    body = _text(topic) + payload
    return bytes([_PUBLISH_RETAINED]) + _length(len(body)) + body


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("!H", len(data)) + data


def _length(count: int) -> bytes:
    digits = bytearray()
    while True:
        count, low = divmod(count, 128)
        digits.append(low | (128 if count else 0))
        if not count:
            return bytes(digits)
