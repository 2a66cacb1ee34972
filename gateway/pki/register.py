"""The directory of the authority: its files, whom it issued certificates to, and open join codes.

``ca.crt``, ``crl.pem``, ``broker.crt`` and ``broker.key`` go to the broker; ``gateway.crt`` and ``gateway.key`` are the
gateway's own. ``ca.key`` and ``register.json`` stay here.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contract.acl import DEFAULT_GATEWAY
from contract.ids import DEVICE_ID_PATTERN
from gateway.errors import PkiError
from gateway.pki.authority import Authority, Usage, fingerprint, new_key, private_pem, read_request

DEVICE_DAYS = 397.0
BROKER = "broker"
_LENT = ".lent"
_RESERVED = frozenset({"gateway", "broker", DEFAULT_GATEWAY})
_DAY_S = 86_400.0
_PIN_DIGITS = 32
_CODE_BYTES = 16


class Register:
    """An authority on disk.

    Parameters
    ----------
    directory
        Where the files are.

    Raises
    ------
    PkiError
        From any method: what a person asked for cannot be done, in one line.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def init(self, alt_names: Sequence[str], *, now_s: float) -> None:
        """Make the authority, the certificates of broker and gateway, and an empty revocation list."""
        if (self._directory / "ca.key").exists():
            raise PkiError(f"{self._directory}: there is an authority already; issue, revoke or rotate with it")
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = Authority.create("Kinwatch authority", now_s=now_s)
        self._write("ca.key", authority.key_pem, private=True)
        self._write("ca.crt", authority.certificate_pem)
        with self._index():
            pass
        self.issue_own(BROKER, "broker", usage="server", alt_names=alt_names, now_s=now_s)
        self.issue_own(DEFAULT_GATEWAY, "gateway", usage="client", now_s=now_s)
        self._write_revocations(now_s=now_s)

    def issue_own(
        self, name: str, file: str, *, usage: Usage, alt_names: Sequence[str] = (), now_s: float, days: float = 0.0
    ) -> None:
        """Make a key and a certificate for something that runs beside the authority: ``<file>.key``, ``<file>.crt``."""
        key = new_key()
        expires_s = now_s + (days or DEVICE_DAYS) * _DAY_S
        issued = self._authority().issue(
            key.public_key(), name, usage=usage, not_before_s=now_s, expires_s=expires_s, alt_names=alt_names
        )
        with self._index() as index:
            index["issued"][issued.serial] = _entry(name, now_s, issued.expires_s, usage, alt_names)
        self._write(f"{file}.key", private_pem(key), private=True)
        self._write(f"{file}.crt", issued.pem)

    def issue(self, request_pem: bytes, device_id: str, *, now_s: float, days: float = DEVICE_DAYS) -> bytes:
        """Return a device's certificate for its own key."""
        _check_device(device_id)
        name, public_key = read_request(request_pem)
        if name != device_id:
            raise PkiError(f"the request names {name!r}, the certificate was asked for {device_id!r}")
        issued = self._authority().issue(
            public_key, device_id, usage="client", not_before_s=now_s, expires_s=now_s + days * _DAY_S
        )
        with self._index() as index:
            index["issued"][issued.serial] = _entry(device_id, now_s, issued.expires_s, "client", ())
        return issued.pem

    def revoke(self, name: str, *, now_s: float) -> int:
        """Put all live certificates of a name on the revocation list; return how many."""
        with self._index() as index:
            hit = [e for s, e in index["issued"].items() if name in (e["name"], s) and e["revoked_s"] is None]
            for entry in hit:
                entry["revoked_s"] = now_s
            # An open join code would let the holder back in.
            for code in [c for c, open_code in index["codes"].items() if open_code["device_id"] == name]:
                del index["codes"][code]
        if not hit:
            raise PkiError(f"{name}: no live certificate has this name or serial number")
        self._write_revocations(now_s=now_s)
        return len(hit)

    def rotate(self, *, now_s: float) -> None:
        """Make new keys and certificates for broker and gateway, and write the revocation list anew."""
        live = [e for e in self.issued() if e["name"] == BROKER and e["revoked_s"] is None]
        alt_names = live[-1]["alt_names"] if live else ["localhost", "127.0.0.1"]
        self.issue_own(BROKER, "broker", usage="server", alt_names=alt_names, now_s=now_s)
        self.issue_own(DEFAULT_GATEWAY, "gateway", usage="client", now_s=now_s)
        self._write_revocations(now_s=now_s)

    def issued(self) -> list[dict[str, Any]]:
        """Return all certificates, oldest first: serial, name, issued_s, expires_s, revoked_s, usage, alt_names."""
        with self._index() as index:
            entries = [{"serial": serial, **entry} for serial, entry in index["issued"].items()]
        return sorted(entries, key=lambda entry: float(entry["issued_s"]))

    @contextmanager
    def short_pass(self, name: str, *, now_s: float) -> Iterator[tuple[Path, Path]]:
        """Lend a certificate and a key of a device's name for an hour; afterwards they are revoked and gone."""
        _check_device(name)
        certificate, key = self.path(f"{_LENT}.crt"), self.path(f"{_LENT}.key")
        self.issue_own(name, _LENT, usage="client", now_s=now_s, days=1.0 / 24.0)
        try:
            yield certificate, key
        finally:
            certificate.unlink(missing_ok=True)
            key.unlink(missing_ok=True)
            self.revoke(name, now_s=now_s)

    def is_revoked(self, serial: str) -> bool:
        """Return whether a certificate is revoked or none of ours."""
        with self._index() as index:
            entry = index["issued"].get(serial)
        return entry is None or entry["revoked_s"] is not None

    def make_code(self, device_id: str, *, ttl_s: float, now_s: float) -> str:
        """Return a code that lets one device join once.

        It ends with the fingerprint of the enrolment desk's certificate, so that the device knows whom it talks to.
        """
        _check_device(device_id)
        secret = secrets.token_hex(_CODE_BYTES)
        with self._index() as index:
            live = {c: e for c, e in index["codes"].items() if e["expires_s"] > now_s and e["device_id"] != device_id}
            index["codes"] = live | {_hash(secret): {"device_id": device_id, "expires_s": now_s + ttl_s}}
        return f"{secret}-{fingerprint(self.read('broker.crt'))[:_PIN_DIGITS]}"

    def redeem(self, code: str, *, now_s: float) -> str | None:
        """Return the device that a code lets in and use the code up; ``None`` if it is unknown, used or too old."""
        with self._index() as index:
            entry = index["codes"].pop(_hash(code.split("-", 1)[0]), None)
        if entry is None or entry["expires_s"] <= now_s:
            return None
        return str(entry["device_id"])

    def read(self, name: str) -> bytes:
        """Return one of the files."""
        try:
            return (self._directory / name).read_bytes()
        except OSError as error:
            raise PkiError(
                f"{self._directory / name}: cannot be read: {error.strerror}; kinwatch-gateway pki init makes it"
            ) from None

    def path(self, name: str) -> Path:
        """Return the path of one of the files."""
        return self._directory / name

    def _authority(self) -> Authority:
        return Authority.load(self.read("ca.crt"), self.read("ca.key"))

    def _write_revocations(self, *, now_s: float) -> None:
        revoked = [(e["serial"], e["revoked_s"]) for e in self.issued() if e["revoked_s"] is not None]
        self._write("crl.pem", self._authority().revocation_list(revoked, now_s=now_s))

    @contextmanager
    def _index(self) -> Iterator[dict[str, Any]]:
        """Read the register, let it be changed, and write it back; one program at a time."""
        try:
            with (self._directory / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                path = self._directory / "register.json"
                text = path.read_text(encoding="utf-8") if path.exists() else '{"issued": {}, "codes": {}}'
                index: dict[str, Any] = json.loads(text)
                yield index
                changed = json.dumps(index, indent=1, sort_keys=True)
                if changed != text:
                    self._write("register.json", changed.encode(), private=True)
        except FileNotFoundError:
            raise PkiError(f"{self._directory}: no authority here; kinwatch-gateway pki init makes one") from None
        except (OSError, json.JSONDecodeError) as error:
            raise PkiError(f"{self._directory}: the register cannot be used: {error}") from None

    def _write(self, name: str, data: bytes, *, private: bool = False) -> None:
        """Write through a temporary file, so that a crash leaves the old content or the new one."""
        path = self._directory / name
        temporary = path.with_name(f"{name}.new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _entry(name: str, now_s: float, expires_s: float, usage: str, alt_names: Sequence[str]) -> dict[str, Any]:
    return {
        "name": name,
        "issued_s": now_s,
        "expires_s": expires_s,
        "revoked_s": None,
        "usage": usage,
        "alt_names": list(alt_names),
    }


def _check_device(device_id: str) -> None:
    if not re.fullmatch(DEVICE_ID_PATTERN, device_id):
        raise PkiError(f"{device_id!r} is no device id (1 to 32 of a-z 0-9 -, not at the ends)")
    if device_id in _RESERVED:
        raise PkiError(f"{device_id!r} is reserved; a device cannot have the name of the gateway or the broker")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.strip().lower().encode()).hexdigest()
