"""Which releases are accepted; every step of the check refuses under its own reason."""

from base64 import b64encode

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from contract.exit_codes import ExitCode
from contract.messages import Epoch, Release
from contract.messages.delivery import epoch_bytes
from contract.model import DEFAULT_SPEC, ReleaseManifest, weights_digest, weights_to_bytes
from device_agent.errors import TrustError
from device_agent.trust import Keyring, check_release, key_id, load_keyring

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)


def raw_key(key):
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


RING = Keyring({key_id(raw_key(KEY)): raw_key(KEY)})
WEIGHTS = np.linspace(-1, 1, DEFAULT_SPEC.n_parameters, dtype=np.float32)


def release(*, key=KEY, weights=WEIGHTS, sent=None, **changes):
    manifest = ReleaseManifest(
        **{
            "weights_digest": weights_digest(weights),
            "spec_id": DEFAULT_SPEC.spec_id,
            "n_parameters": DEFAULT_SPEC.n_parameters,
            "role": "expert",
            "family_id": "family-1",
            "round_number": 4,
            "parent": None,
        }
        | changes
    )
    return Release(
        manifest=manifest,
        key_id=key_id(raw_key(key)),
        signature=key.sign(manifest.signed_bytes()),
        weights=weights_to_bytes(weights) if sent is None else sent,
    )


def refusal(found, *, ring=RING, digest=None):
    return check_release(found, digest=digest or found.manifest.weights_digest, spec=DEFAULT_SPEC, keyring=ring).refusal


def test_a_good_release_gives_its_weights():
    verdict = check_release(release(), digest=weights_digest(WEIGHTS), spec=DEFAULT_SPEC, keyring=RING)
    assert verdict.refusal is None
    assert np.array_equal(verdict.weights, WEIGHTS)


def test_an_epoch_must_be_signed_by_a_trusted_key():
    def epoch(key, signed=7):
        return Epoch(number=7, key_id=key_id(raw_key(key)), signature=key.sign(epoch_bytes(signed)).hex())

    assert RING.verify_epoch(epoch(KEY)) is None
    assert RING.verify_epoch(epoch(KEY, signed=8)) == "trust-bad-signature"
    assert RING.verify_epoch(epoch(OTHER)) == "trust-unknown-key"
    assert Keyring().verify_epoch(epoch(KEY)) == "trust-no-keys"


def test_each_fault_has_its_reason():
    good = release()
    nan = WEIGHTS.copy()
    nan[0] = np.nan
    assert refusal(good, digest="0" * 64) == "release-other-digest"
    assert refusal(release(spec_id="1" * 64)) == "release-spec"
    assert refusal(release(n_parameters=7)) == "release-length"
    assert refusal(release(key=OTHER)) == "trust-unknown-key"
    assert refusal(good, ring=Keyring()) == "trust-no-keys"
    assert refusal(release(sent=b"\x00" * 4 * DEFAULT_SPEC.n_parameters)) == "release-digest"
    assert refusal(release(sent=weights_to_bytes(WEIGHTS)[:-4])) == "release-digest"
    assert refusal(release(weights=nan)) == "weights-not-finite"
    assert refusal(release(weights=WEIGHTS[:-1])) == "weights-length"


@pytest.mark.parametrize("field", ["role", "family_id", "round_number", "parent"])
def test_a_manifest_changed_after_signing_is_refused(field):
    good = release()
    value = {"role": "fallback", "family_id": "family-2", "round_number": 5, "parent": "2" * 64}[field]
    changes = {"role": value, "family_id": None} if field == "role" else {field: value}
    forged = good.model_copy(update={"manifest": good.manifest.model_copy(update=changes)})
    assert refusal(forged) == "trust-bad-signature"


def test_a_flipped_bit_in_the_signature_is_refused():
    good = release()
    flipped = good.model_copy(update={"signature": bytes([good.signature[0] ^ 1]) + good.signature[1:]})
    assert refusal(flipped) == "trust-bad-signature"


def test_keys_are_read_in_all_three_forms(tmp_path):
    public = KEY.public_key()
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    forms = {
        "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "hex": raw.hex().encode() + b"\n",
        "base64": b64encode(raw) + b"\n",
    }
    for name, data in forms.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert load_keyring([path]).keys == {key_id(raw): raw}, name


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a key",
        b"00" * 31,
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN PUBLIC KEY-----\n",
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)[:60],
        X25519PrivateKey.from_private_bytes(b"\x03" * 32)
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ],
)
def test_a_file_without_an_ed25519_key_is_one_line(tmp_path, data):
    path = tmp_path / "key"
    path.write_bytes(data)
    with pytest.raises(TrustError, match="holds no Ed25519 public key") as caught:
        load_keyring([path])
    assert caught.value.exit_code == ExitCode.CONFIG


def test_a_missing_key_file_is_one_line(tmp_path):
    with pytest.raises(TrustError, match="No such file"):
        load_keyring([tmp_path / "absent"])
