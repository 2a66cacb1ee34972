"""Certificates, requests and revocation lists as bytes. P-256 keys; the common name is the MQTT user name."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.errors import PkiError

CA_DAYS = 3_650
Usage = Literal["client", "server"]
# Clocks of devices without a battery start behind.
_BACKDATED = timedelta(days=1)
_USAGES = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate: PEM, serial number in hexadecimal, and when it ends (seconds since the epoch)."""

    pem: bytes
    serial: str
    expires_s: float


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate and its key, both able to sign others."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, name: str, *, now_s: float) -> "Authority":
        """Make a new authority that lives ten years."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.fromtimestamp(now_s, UTC)
        usage = _key_usage(signs_certificates=True)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, certificate_pem: bytes, key_pem: bytes) -> "Authority":
        """Read an authority.

        Raises
        ------
        PkiError
            If one of the two is not what it should be.
        """
        try:
            key = load_pem_private_key(key_pem, password=None)
            certificate = x509.load_pem_x509_certificate(certificate_pem)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise PkiError("the authority's certificate or key is damaged") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise PkiError("the authority's key is no elliptic curve key")
        return cls(certificate, key)

    @property
    def certificate_pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key."""
        return private_pem(self.key)

    def issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        name: str,
        *,
        usage: Usage,
        not_before_s: float,
        expires_s: float,
        alt_names: Iterable[str] = (),
    ) -> Issued:
        """Sign a certificate for a name.

        Parameters
        ----------
        public_key
            Of the holder.
        name
            Common name.
        usage
            ``client`` or ``server``; a client's certificate cannot pose as the broker.
        not_before_s, expires_s
            Seconds since the epoch; the start is put a day earlier.
        alt_names
            Host names and addresses of a server.
        """
        serial = x509.random_serial_number()
        end = min(datetime.fromtimestamp(expires_s, UTC), self.certificate.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(serial)
            .not_valid_before(datetime.fromtimestamp(not_before_s, UTC) - _BACKDATED)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_USAGES[usage]]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        names = [_general_name(text) for text in alt_names]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return Issued(certificate.public_bytes(Encoding.PEM), f"{serial:x}", end.timestamp())

    def revocation_list(self, revoked: Iterable[tuple[str, float]], *, now_s: float) -> bytes:
        """Return the list of revoked serial numbers (hexadecimal, with their time) as PEM.

        It is good for as long as the authority: a broker with an outdated list would refuse the whole fleet.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(datetime.fromtimestamp(now_s, UTC) - _BACKDATED)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.CRLNumber(int(now_s * 1_000)), critical=False)
        )
        for serial, at_s in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16))
            builder = builder.add_revoked_certificate(entry.revocation_date(datetime.fromtimestamp(at_s, UTC)).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a key for a broker or gateway; devices make their own."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PEM without a password."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_request(pem: bytes) -> tuple[str, ec.EllipticCurvePublicKey]:
    """Return common name and public key of a signing request.

    Raises
    ------
    PkiError
        If it is no request, its signature is wrong, it names nobody or several, or its key is not P-256.
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        valid = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        raise PkiError("this is no certificate request in PEM form") from None
    key, names = request.public_key(), request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not valid:
        raise PkiError("the certificate request is not signed by its own key")
    if len(names) != 1:
        raise PkiError("the certificate request must have one common name")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PkiError("the certificate request must have a P-256 key")
    return str(names[0].value), key


def serial_and_name(certificate_der: bytes) -> tuple[str, str]:
    """Return serial number (hexadecimal) and common name of a certificate that was verified already."""
    certificate = x509.load_der_x509_certificate(certificate_der)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return f"{certificate.serial_number:x}", str(names[0].value) if names else ""


def fingerprint(certificate_pem: bytes) -> str:
    """Return the SHA-256 of a certificate, hexadecimal."""
    return x509.load_pem_x509_certificate(certificate_pem).fingerprint(hashes.SHA256()).hex()


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
