"""Which releases a device accepts: Ed25519 signatures of keys that it was given."""

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract.canonical import sha256_hex
from contract.errors import WeightsError
from contract.messages import Epoch, Release
from contract.model import ModelSpec, weights_from_bytes
from device_agent.errors import TrustError

RAW_KEY_BYTES = 32
_MADE_HERE = frozenset({"fine-tuned", "local"})
"""Roles of models that only the device itself makes."""
_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an Ed25519 key in its PEM form (RFC 8410); the form has no other variant."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """Raw public keys by key id (first 16 hexadecimal digits of the SHA-256 of the raw key)."""

    keys: Mapping[str, bytes] = field(default_factory=dict)

    def verify(self, release: Release) -> str | None:
        """Return why the signature of a release is refused, or ``None`` if it is good."""
        return self._check(release.key_id, release.manifest.signed_bytes(), release.signature)

    def verify_epoch(self, epoch: Epoch) -> str | None:
        """Return why the signature of an epoch is refused, or ``None`` if it is good."""
        return self._check(epoch.key_id, epoch.signed_bytes(), bytes.fromhex(epoch.signature))

    def _check(self, key_id: str, message: bytes, signature: bytes) -> str | None:
        if not self.keys:
            return "trust-no-keys"
        key = self.keys.get(key_id)
        if key is None:
            return "trust-unknown-key"
        return None if _is_signed(message, signature, key) else "trust-bad-signature"


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What came out of checking a release: weights of shape ``(P,)``, or the reason of the refusal."""

    weights: npt.NDArray[np.float32] | None
    refusal: str | None


def check_release(release: Release, *, digest: str, spec: ModelSpec, keyring: Keyring) -> Verdict:
    """Check a release from its topic to its last weight.

    Parameters
    ----------
    release
        From a peer.
    digest
        Under which it was published.
    spec
        The architecture this device works with.
    keyring
        Keys this device trusts.
    """
    manifest = release.manifest
    if manifest.weights_digest != digest:
        return Verdict(None, "release-other-digest")
    if manifest.role in _MADE_HERE:
        return Verdict(None, "release-role")
    if manifest.spec_id != spec.spec_id:
        return Verdict(None, "release-spec")
    if manifest.n_parameters != spec.n_parameters:
        return Verdict(None, "release-length")
    refusal = keyring.verify(release)
    if refusal is not None:
        return Verdict(None, refusal)
    if sha256_hex(release.weights) != digest:
        return Verdict(None, "release-digest")
    try:
        return Verdict(weights_from_bytes(release.weights, n_parameters=spec.n_parameters), None)
    except WeightsError as error:
        return Verdict(None, error.reason)


def load_keyring(paths: Sequence[Path]) -> Keyring:
    """Read public keys: PEM, or the raw 32 bytes in hexadecimal or Base64 on one line.

    Raises
    ------
    TrustError
        If a file cannot be read or holds no Ed25519 public key.
    """
    keys: dict[str, bytes] = {}
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise TrustError(f"{path}: the release key cannot be read: {error.strerror}") from None
        key = _parse_key(data)
        if key is None:
            raise TrustError(f"{path}: holds no Ed25519 public key (PEM, or 32 bytes in hexadecimal or Base64)")
        keys[key_id(key)] = key
    return Keyring(keys)


def key_id(raw: bytes) -> str:
    """Return the id of a raw public key."""
    return sha256_hex(raw)[:16]


def _parse_key(data: bytes) -> bytes | None:
    """Return the raw key of a key file, ``None`` if it holds none."""
    text = data.strip()
    lines = text.splitlines()
    try:
        if text.startswith(b"-----BEGIN PUBLIC KEY-----"):
            wrapped = b64decode(b"".join(lines[1:-1]), validate=True)
            raw = wrapped.removeprefix(_SPKI_PREFIX) if lines[-1] == b"-----END PUBLIC KEY-----" else b""
            return raw if len(wrapped) == len(_SPKI_PREFIX) + RAW_KEY_BYTES == len(raw) + len(_SPKI_PREFIX) else None
        raw = bytes.fromhex(text.decode("ascii")) if len(text) == 2 * RAW_KEY_BYTES else b64decode(text, validate=True)
    except (ValueError, Base64Error):
        return None
    return raw if len(raw) == RAW_KEY_BYTES else None


def _is_signed(message: bytes, signature: bytes, raw_key: bytes) -> bool:
    # Loaded at the first release: it takes 8 MB, which a device without a gateway does not need.
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(raw_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True
