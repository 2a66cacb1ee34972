"""Release keys: made once, private, and good for what devices check."""

import stat

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from contract.canonical import sha256_hex
from contract.initial import initial_theta
from contract.model import DEFAULT_SPEC, weights_digest
from gateway.errors import SigningError
from gateway.releases import make_release
from gateway.signing import make_missing_keys, open_signer


def public_key(path):
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(path.read_text().strip()))


def test_the_first_start_makes_an_active_and_a_spare_pair(tmp_path):
    open_signer(tmp_path / "keys")
    names = sorted(path.name for path in (tmp_path / "keys").iterdir())
    assert names == ["release-1.key", "release-1.pub", "release-2.key", "release-2.pub"]
    for name in names:
        mode = stat.S_IMODE((tmp_path / "keys" / name).stat().st_mode)
        assert mode == (0o600 if name.endswith(".key") else 0o644)
    assert (tmp_path / "keys" / "release-1.pub").read_text() != (tmp_path / "keys" / "release-2.pub").read_text()


def test_a_second_start_uses_the_same_keys(tmp_path):
    assert open_signer(tmp_path).key_id == open_signer(tmp_path).key_id


def test_a_release_is_signed_by_the_active_key_over_the_canonical_manifest(tmp_path):
    signer = open_signer(tmp_path)
    active, spare = make_missing_keys(tmp_path)
    theta = initial_theta(DEFAULT_SPEC, 1)
    release = make_release(
        theta, DEFAULT_SPEC, signer, role="expert", family_id="family-1", round_number=3, parent="a" * 64
    )
    assert release.manifest.weights_digest == weights_digest(theta) == sha256_hex(release.weights)
    assert release.key_id == sha256_hex(bytes.fromhex(active.read_text().strip()))[:16]
    public_key(active).verify(release.signature, release.manifest.signed_bytes())
    with pytest.raises(InvalidSignature):
        public_key(spare).verify(release.signature, release.manifest.signed_bytes())


def test_a_public_file_that_is_gone_or_wrong_is_written_again(tmp_path):
    active, _ = make_missing_keys(tmp_path)
    text = active.read_text()
    active.write_text("nonsense")
    assert make_missing_keys(tmp_path)[0].read_text() == text


def test_a_key_that_others_can_read_is_refused(tmp_path):
    open_signer(tmp_path)
    (tmp_path / "release-1.key").chmod(0o640)
    with pytest.raises(SigningError, match="others can read this private key; run chmod 600"):
        open_signer(tmp_path)


def test_a_damaged_key_is_refused_and_not_replaced(tmp_path):
    open_signer(tmp_path)
    (tmp_path / "release-1.key").write_bytes(b"no key")
    with pytest.raises(SigningError, match="no private key in PEM form"):
        open_signer(tmp_path)
    assert (tmp_path / "release-1.key").read_bytes() == b"no key"


def test_a_key_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "release-1.key"
    key = generate_private_key(SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(SigningError, match="no Ed25519 key"):
        open_signer(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SigningError, match="release keys cannot be written"):
        open_signer(tmp_path / "file" / "keys")
