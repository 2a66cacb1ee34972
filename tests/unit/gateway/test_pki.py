"""The authority's rules that need no network."""

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.errors import PkiError
from gateway.pki.authority import read_request
from gateway.pki.register import Register
from tests.integration.pki_rig import request_for

NOW_S = 1_800_000_000.0


@pytest.fixture(scope="module")
def register(tmp_path_factory):
    made = Register(tmp_path_factory.mktemp("pki"))
    made.init(["broker.lan", "10.0.0.1"], now_s=NOW_S)
    return made


def test_an_authority_is_made_once(register):
    with pytest.raises(PkiError, match="there is an authority already"):
        register.init([], now_s=NOW_S)


def test_private_files_are_private(register):
    for name in ("ca.key", "broker.key", "gateway.key", "register.json"):
        assert register.path(name).stat().st_mode & 0o077 == 0, name


@pytest.mark.parametrize("name", ["kinwatch-gateway", "gateway", "broker"])
def test_reserved_names_are_no_devices(register, name):
    _, request = request_for(name)
    with pytest.raises(PkiError, match="reserved"):
        register.issue(request, name, now_s=NOW_S)


@pytest.mark.parametrize("name", ["a/b", "+", "#", "Cam", "", "a" * 33, "cam-1/../x"])
def test_a_name_that_is_no_device_id_gets_no_certificate(register, name):
    _, request = request_for("cam-1")
    with pytest.raises(PkiError, match="is no device id"):
        register.issue(request, name, now_s=NOW_S)


def test_the_request_must_name_the_device(register):
    _, request = request_for("cam-2")
    with pytest.raises(PkiError, match="the request names 'cam-2'"):
        register.issue(request, "cam-1", now_s=NOW_S)


def test_a_request_with_a_broken_signature_is_refused():
    _, request = request_for("cam-1")
    der = bytearray(x509.load_pem_x509_csr(request).public_bytes(Encoding.DER))
    # The last byte belongs to the signature.
    der[-1] ^= 1
    pem = b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(PkiError, match="not signed by its own key"):
        read_request(pem)


def test_revoked_serial_numbers_are_on_the_list_and_stay_there(register):
    _, request = request_for("cam-7")
    first = x509.load_pem_x509_certificate(register.issue(request, "cam-7", now_s=NOW_S))
    assert register.revoke("cam-7", now_s=NOW_S + 1) == 1
    second = x509.load_pem_x509_certificate(register.issue(request, "cam-7", now_s=NOW_S + 2))
    assert register.revoke("cam-7", now_s=NOW_S + 3) == 1
    crl = x509.load_pem_x509_crl(register.read("crl.pem"))
    assert {entry.serial_number for entry in crl} >= {first.serial_number, second.serial_number}
    assert crl.is_signature_valid(x509.load_pem_x509_certificate(register.read("ca.crt")).public_key())
    with pytest.raises(PkiError, match="no live certificate"):
        register.revoke("cam-7", now_s=NOW_S + 4)


def test_revoking_closes_open_join_codes(register):
    _, request = request_for("cam-8")
    register.issue(request, "cam-8", now_s=NOW_S)
    code = register.make_code("cam-8", ttl_s=600, now_s=NOW_S)
    register.revoke("cam-8", now_s=NOW_S)
    assert register.redeem(code, now_s=NOW_S + 1) is None


def test_a_code_is_stored_as_a_hash_only(register):
    code = register.make_code("cam-3", ttl_s=600, now_s=NOW_S)
    assert code.split("-")[0] not in register.path("register.json").read_text()
    assert register.redeem(code, now_s=NOW_S + 599) == "cam-3"
    assert register.redeem(code, now_s=NOW_S + 599) is None


def test_rotation_makes_new_keys_for_the_same_names(register):
    before = register.read("broker.key")
    register.rotate(now_s=NOW_S + 10)
    assert register.read("broker.key") != before
    names = x509.load_pem_x509_certificate(register.read("broker.crt")).extensions
    found = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in found] == ["broker.lan", "10.0.0.1"]


def test_a_damaged_register_is_one_line(tmp_path):
    made = Register(tmp_path)
    made.init([], now_s=NOW_S)
    made.path("register.json").write_text("{", encoding="utf-8")
    with pytest.raises(PkiError, match="the register cannot be used"):
        made.issued()
