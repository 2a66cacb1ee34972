"""Who the device is to the broker: a key made here, a request for a certificate, and its renewal.

Only the request leaves the device. ``device.key`` is readable by its owner alone; ``device.crt`` and ``ca.crt`` come
from the gateway's enrolment desk.
"""

import hashlib
import json
import os
import re
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from device_agent.errors import EnrolError

KEY, CERTIFICATE, AUTHORITY = "device.key", "device.crt", "ca.crt"
_LONGEST_ANSWER = 65_536
_PATIENCE_S = 15.0
_CODE = r"[0-9a-f]{32}-[0-9a-f]{32}"
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Desk:
    """Where the enrolment desk of the gateway is."""

    host: str
    port: int


def make_request(directory: Path, device_id: str) -> bytes:
    """Return a certificate request as PEM; the key is made in ``directory`` if there is none.

    Raises
    ------
    EnrolError
        If the key cannot be read or written.
    """
    key = _key(directory)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_id)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM)


def enrol(directory: Path, device_id: str, desk: Desk, code: str) -> float:
    """Get the first certificate with a join code.

    Returns
    -------
    float
        When it ends, seconds since the epoch.

    Raises
    ------
    EnrolError
        If the code is malformed or refused, the desk is not the one that the code names, or it does not answer.
    """
    if not re.fullmatch(_CODE, code):
        raise EnrolError("this is no join code; kinwatch-gateway join-code makes one")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The authority is not known yet; the code says which certificate the desk must have.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _exchange(directory, device_id, desk, context, code=code)


def renew(directory: Path, device_id: str, desk: Desk) -> float:
    """Get a new certificate with the one that is still valid; return when the new one ends.

    Raises
    ------
    EnrolError
        As ``enrol``.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The desk may be reached by another name than the broker; that the authority signed it for a server is enough.
    context.check_hostname = False
    try:
        context.load_verify_locations(directory / AUTHORITY)
        context.load_cert_chain(directory / CERTIFICATE, directory / KEY)
    except (OSError, ssl.SSLError) as error:
        raise EnrolError(f"{directory}: no usable certificate to renew ({error}); enrol with a join code") from None
    return _exchange(directory, device_id, desk, context, code="")


def days_left(certificate: Path, *, now_s: float) -> float:
    """Return the days until a certificate ends, negative after that.

    Raises
    ------
    EnrolError
        If it cannot be read.
    """
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise EnrolError(f"{certificate}: cannot be read: {error}") from None
    return (loaded.not_valid_after_utc - datetime.fromtimestamp(now_s, UTC)).total_seconds() / _DAY_S


def _exchange(directory: Path, device_id: str, desk: Desk, context: ssl.SSLContext, *, code: str) -> float:
    request = {"device_id": device_id, "csr": make_request(directory, device_id).decode(), "code": code}
    try:
        with (
            socket.create_connection((desk.host, desk.port), timeout=_PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=desk.host) as caller,
        ):
            shown = hashlib.sha256(caller.getpeercert(binary_form=True) or b"").hexdigest()
            if code and not shown.startswith(code.split("-")[1]):
                raise EnrolError(
                    f"{desk.host}:{desk.port} is not the gateway that gave this join code; nothing was sent"
                )
            caller.sendall(json.dumps(request).encode() + b"\n")
            answer = _read_line(caller)
    except (OSError, ssl.SSLError) as error:
        raise EnrolError(f"{desk.host}:{desk.port}: the enrolment desk does not answer: {error}") from None
    return _keep(directory, device_id, answer)


def _keep(directory: Path, device_id: str, answer: bytes) -> float:
    try:
        said = json.loads(answer)
        if "refused" in said:
            raise EnrolError(str(said["refused"])[:400])
        certificate, authority = str(said["certificate"]).encode(), str(said["authority"]).encode()
        loaded = x509.load_pem_x509_certificate(certificate)
        x509.load_pem_x509_certificate(authority)
    except (ValueError, KeyError, TypeError):
        raise EnrolError("the enrolment desk gave an answer that is no certificate") from None
    names = [a.value for a in loaded.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [device_id] or loaded.public_key() != _key(directory).public_key():
        raise EnrolError("the enrolment desk gave a certificate for another device or key")
    _write(directory / AUTHORITY, authority, mode=0o644)
    _write(directory / CERTIFICATE, certificate, mode=0o644)
    return loaded.not_valid_after_utc.timestamp()


def _key(directory: Path) -> ec.EllipticCurvePrivateKey:
    path = directory / KEY
    try:
        if not path.exists():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = ec.generate_private_key(ec.SECP256R1())
            _write(path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise EnrolError(f"{path}: the device's key cannot be used: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise EnrolError(f"{path}: this is no elliptic curve key")
    return key


def _write(path: Path, data: bytes, *, mode: int) -> None:
    """Write through a temporary file: after a power cut there is the old content or the new one."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read_line(caller: ssl.SSLSocket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        part = caller.recv(4_096)
        data += part
        if not part or len(data) > _LONGEST_ANSWER:
            raise EnrolError("the enrolment desk gave no answer")
    return data
