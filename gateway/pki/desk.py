"""The enrolment desk: a TLS port where devices hand in a request and get a certificate.

One request, one answer, both a line of JSON. A device that has no certificate yet shows a join code; one that has a
valid certificate gets a new one for the same name. Nothing else is spoken here.
"""

import json
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

from gateway import log
from gateway.errors import PkiError
from gateway.pki.authority import serial_and_name
from gateway.pki.register import Register

_LONGEST_REQUEST = 16_384
_PATIENCE_S = 10.0
_AT_ONCE = 8


class Desk:
    """A running desk.

    Parameters
    ----------
    register
        The authority.
    host, port
        Where to listen; port 0 takes a free one.
    clock
        Wall time, seconds since the epoch.

    Attributes
    ----------
    port
        The port it listens on.
    counts
        Answers by reason.
    """

    def __init__(self, register: Register, host: str, port: int, *, clock: Callable[[], float] = time.time) -> None:
        self._register = register
        self._clock = clock
        self._stopping = Event()
        self._listener = socket.create_server((host, port), backlog=_AT_ONCE)
        self._listener.settimeout(0.2)
        self.port = int(self._listener.getsockname()[1])
        self.counts: Counter[str] = Counter()
        self._context = server_context(
            register.path("broker.crt"), register.path("broker.key"), register.path("ca.crt")
        )

    def serve(self) -> None:
        """Answer until ``stop``."""
        callers: list[Thread] = []
        while not self._stopping.is_set():
            callers = [thread for thread in callers if thread.is_alive()]
            with suppress(TimeoutError):
                connection, _ = self._listener.accept()
                if len(callers) >= _AT_ONCE:
                    self.counts["busy"] += 1
                    connection.close()
                    continue
                thread = Thread(target=self._answer, args=(connection,), daemon=True)
                thread.start()
                callers.append(thread)
        self._listener.close()

    def stop(self) -> None:
        """Ask ``serve`` to return."""
        self._stopping.set()

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(_PATIENCE_S)
        try:
            with connection, self._context.wrap_socket(connection, server_side=True) as caller:
                reply = self._reply(_read_line(caller), caller.getpeercert(binary_form=True))
                caller.sendall(json.dumps(reply).encode() + b"\n")
        except (OSError, ValueError):
            self.counts["broken-connection"] += 1

    def _reply(self, line: bytes, peer: bytes | None) -> dict[str, str]:
        try:
            return self._certificate(line, peer)
        except PkiError as error:
            self.counts["bad-request"] += 1
            return {"refused": str(error)}

    def _certificate(self, line: bytes, peer: bytes | None) -> dict[str, str]:
        try:
            request = json.loads(line)
            code, csr, device_id = str(request.get("code", "")), str(request["csr"]), str(request["device_id"])
        except (ValueError, KeyError, AttributeError):
            raise PkiError("this is no enrolment request") from None
        now_s = self._clock()
        if peer is not None:
            serial, name = serial_and_name(peer)
            allowed = None if self._register.is_revoked(serial) else name
        else:
            allowed = self._register.redeem(code, now_s=now_s)
        if allowed != device_id:
            self.counts["denied"] += 1
            log.warn("enrolment-denied", device=device_id[:40], by="certificate" if peer else "code")
            return {"refused": "the join code or certificate does not let this device in; ask for a new code"}
        pem = self._register.issue(csr.encode(), device_id, now_s=now_s)
        self.counts["renewed" if peer else "enrolled"] += 1
        log.info("certificate-issued", device=device_id, by="renewal" if peer else "join-code")
        return {"certificate": pem.decode(), "authority": self._register.read("ca.crt").decode()}


def server_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """Return TLS 1.2 or later for a server that takes clients with and without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _read_line(caller: ssl.SSLSocket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        part = caller.recv(4_096)
        data += part
        if not part or len(data) > _LONGEST_REQUEST:
            raise ValueError("no request")
    return data
