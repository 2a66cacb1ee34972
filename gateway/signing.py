"""Release keys: Ed25519 pairs made at the first start.

Two pairs exist from the start, ``release-1`` in use and ``release-2`` spare, so that devices that trust both need no
visit when the first must be replaced. ``<name>.key`` holds the private key (PEM, mode 0600), ``<name>.pub`` the raw
public key in hexadecimal: that file goes into the ``[trust] keys`` of the agents.
"""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from contract.canonical import sha256_hex
from gateway.errors import SigningError

ACTIVE = "release-1"
SPARE = "release-2"
_OTHERS = 0o077


class Signer:
    """Signs release manifests with the active key.

    Attributes
    ----------
    key_id
        First 16 hexadecimal digits of the SHA-256 of the raw public key.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id = sha256_hex(_raw_public(key))[:16]

    def sign(self, data: bytes) -> bytes:
        """Return the signature of ``data``, 64 bytes."""
        return self._key.sign(data)


def open_signer(directory: Path) -> Signer:
    """Load the active key; make both pairs if there are none.

    Raises
    ------
    SigningError
        If a key cannot be read or written, is damaged, or others can read it.
    """
    make_missing_keys(directory)
    return Signer(_load(directory / f"{ACTIVE}.key"))


def make_missing_keys(directory: Path) -> tuple[Path, Path]:
    """Make the key pairs that are not there yet, and the public files beside them.

    Returns
    -------
    tuple
        Paths of the two public keys, active first.

    Raises
    ------
    SigningError
        As ``open_signer``.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _ensure(directory, ACTIVE), _ensure(directory, SPARE)
    except OSError as error:
        raise SigningError(f"{directory}: release keys cannot be written: {error.strerror}") from None


def _ensure(directory: Path, name: str) -> Path:
    private, public = directory / f"{name}.key", directory / f"{name}.pub"
    if private.exists():
        key = _load(private)
    else:
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write_private(private, pem)
    text = _raw_public(key).hex() + "\n"
    if not public.exists() or public.read_text(encoding="ascii") != text:
        public.write_text(text, encoding="ascii")
        public.chmod(0o644)
    return public


def _write_private(path: Path, data: bytes) -> None:
    """Write through a temporary file, so that a crash leaves no half key under the final name."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _load(path: Path) -> Ed25519PrivateKey:
    try:
        if path.stat().st_mode & _OTHERS:
            raise SigningError(f"{path}: others can read this private key; run chmod 600 on it")
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise SigningError(f"{path}: the release key cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        raise SigningError(f"{path}: this is no private key in PEM form") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningError(f"{path}: this is no Ed25519 key")
    return key


def _raw_public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
