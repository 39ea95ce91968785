"""Certificates that sign files: the operator's own, or those of this installation.

A C2PA reader refuses a certificate without the extensions that ``problems`` looks for, so files
would be signed for nothing. The installation's own authority is derived from a secret in the
database: every ingress process has the same one, and no file has to be copied.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from serve_app.domain.errors import Misconfigured

LOCAL_NAME = "Darkroom local, not trusted by public viewers"
LOCAL_FROM = datetime(2025, 1, 1, tzinfo=UTC)
LOCAL_UNTIL = datetime(2075, 1, 1, tzinfo=UTC)
CERTIFICATES_FILE = "signing_certificates.pem"
"""File in the data directory with the certificates of the signer, which are not secret."""

RENEW_DAYS = 60
COORDINATE_BYTES = 32  # of a signature on the curve P-256

# What readers accept in a certificate of a signer. The last two only if their settings say so.
DOCUMENT_SIGNING = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")
C2PA_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
ALLOWED_USES = (ExtendedKeyUsageOID.EMAIL_PROTECTION, DOCUMENT_SIGNING, C2PA_SIGNING)

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256

T = TypeVar("T", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class SigningIdentity:
    """Key that signs files, and its certificate with those that issued it."""

    certificates: tuple[x509.Certificate, ...]  # of the signer first
    key: ec.EllipticCurvePrivateKey

    @property
    def chain(self) -> str:
        """All certificates as PEM."""
        pem = serialization.Encoding.PEM
        return "".join(certificate.public_bytes(pem).decode() for certificate in self.certificates)

    @property
    def name(self) -> str:
        """Common name of the signer, or the whole subject."""
        return common_name(self.certificates[0])

    def sign(self, claim: bytes) -> bytes:
        """ES256 signature in the form of COSE: both numbers, 64 bytes."""
        numbers = decode_dss_signature(self.key.sign(claim, ec.ECDSA(hashes.SHA256())))
        return b"".join(number.to_bytes(COORDINATE_BYTES, "big") for number in numbers)


def common_name(certificate: x509.Certificate) -> str:
    """Common name of a certificate, or its whole subject."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()


def local_identity(secret: bytes) -> SigningIdentity:
    """The installation's own authority and a signer of it; the same for the same ``secret``."""
    root_key, key = (_derived_key(secret, name) for name in (b"authority", b"signer"))
    subject = _x509_name(LOCAL_NAME)
    root = _certificate(subject, root_key.public_key(), root_key, is_authority=True)
    signer = _certificate(_x509_name(f"{LOCAL_NAME}: files"), key.public_key(), root_key)
    return SigningIdentity((signer, root), key)


def operators_identity(certificate: Path | None, key: str) -> SigningIdentity:
    """The operator's certificates and key. ``Misconfigured`` if one is missing or cannot sign."""
    if certificate is None or not key:
        raise Misconfigured(
            "DARKROOM_SIGN_FILES=certificate needs DARKROOM_SIGNING_CERTIFICATE, the path of a PEM "
            "file, and the secret DARKROOM_SIGNING_KEY."
        )
    try:
        chain = certificate.read_bytes()
    except OSError as error:
        raise Misconfigured(f"DARKROOM_SIGNING_CERTIFICATE cannot be read: {error}") from error
    return read_identity(chain, key.encode())


def read_identity(chain: bytes, key: bytes) -> SigningIdentity:
    """The operator's certificates and key, both as PEM. ``Misconfigured`` if they cannot sign.

    Expiry is not checked here: see ``problems``.
    """
    try:
        certificates = tuple(x509.load_pem_x509_certificates(chain))
    except ValueError as error:
        raise Misconfigured(
            f"DARKROOM_SIGNING_CERTIFICATE is no PEM file with certificates: {error}"
        ) from error
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise Misconfigured(
            f"DARKROOM_SIGNING_KEY is no private key as PEM without a password: {error}"
        ) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp256r1":
        raise Misconfigured(
            "DARKROOM_SIGNING_KEY is no key on the curve P-256. Darkroom signs by ES256; ask for a "
            "certificate with such a key."
        )
    if certificates[0].public_key() != private.public_key():
        raise Misconfigured(
            "DARKROOM_SIGNING_KEY does not belong to the first certificate of "
            "DARKROOM_SIGNING_CERTIFICATE. Put the certificate of the signer first."
        )
    if wrong := _unfit(certificates[0]):
        raise Misconfigured(
            f"C2PA readers would refuse the certificate of DARKROOM_SIGNING_CERTIFICATE: "
            f"{'; '.join(wrong)}. Ask its issuer for one that signs documents or mail."
        )
    return SigningIdentity(certificates, private)


def problems(identity: SigningIdentity, now: datetime) -> Sequence[str]:
    """What an operator should know and change, as sentences."""
    signer, sentences = identity.certificates[0], list[str]()
    left = signer.not_valid_after_utc - now
    day = signer.not_valid_after_utc.date().isoformat()
    if now < signer.not_valid_before_utc:
        sentences.append(
            "The certificate is not valid yet: look at the clock of this machine, or wait."
        )
    elif left < timedelta():
        sentences.append(
            f"The certificate expired on {day}. New files cannot be signed: replace it."
        )
    elif left < timedelta(days=RENEW_DAYS):
        sentences.append(
            f"The certificate expires on {day}, in {left.days} days. Files are signed without a "
            "time stamp, so readers call all of them invalid from that day on. Replace it now."
        )
    return sentences


def _unfit(certificate: x509.Certificate) -> list[str]:
    wrong: list[str] = []
    use = _extension(certificate, x509.KeyUsage)
    if use is None or not use.digital_signature:
        wrong.append("its key usage has no digitalSignature")
    uses = _extension(certificate, x509.ExtendedKeyUsage)
    if uses is None or not set(uses).intersection(ALLOWED_USES):
        wrong.append("its extended key usage has none of emailProtection, documentSigning, C2PA")
    if _extension(certificate, x509.AuthorityKeyIdentifier) is None:
        wrong.append("it has no authority key identifier")
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        wrong.append("it is the certificate of an authority")
    return wrong


def _extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _derived_key(secret: bytes, name: bytes) -> ec.EllipticCurvePrivateKey:
    wide = hmac.digest(secret, name, "sha512")  # far more bits than the order, so no bias
    return ec.derive_private_key(int.from_bytes(wide, "big") % (_ORDER - 1) + 1, ec.SECP256R1())


def _x509_name(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Darkroom"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool = False,
) -> x509.Certificate:
    """Certificate by the installation's own authority, with the same bytes each time."""
    usage = x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(_x509_name(LOCAL_NAME))
        .public_key(key)
        .serial_number(1 if is_authority else 2)
        .not_valid_before(LOCAL_FROM)
        .not_valid_after(LOCAL_UNTIL)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False
        )
    )
    if not is_authority:
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(uses, critical=False)
    return builder.sign(issuer, hashes.SHA256(), ecdsa_deterministic=True)
