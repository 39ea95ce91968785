"""Certificates for tests, with the mistakes that operators make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime(2026, 11, 23, tzinfo=UTC)
MAIL = ExtendedKeyUsageOID.EMAIL_PROTECTION
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def certificate(
    key: Key,
    *,
    use: x509.ObjectIdentifier | None = MAIL,
    signs: bool = True,
    is_authority: bool = False,
    names_issuer: bool = True,
    days: int = 365,
    starts: timedelta = timedelta(days=-1),
) -> str:
    """Certificate of ``key`` as PEM, by an authority that is made for it."""
    issuer = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Studio"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Studio signer"),
        ]
    )
    usage = x509.KeyUsage(signs, False, not signs, False, False, False, False, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Studio root")]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW + starts)
        .not_valid_after(NOW + starts + timedelta(days=days))
        .add_extension(usage, critical=True)
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
    )
    if use is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    if names_issuer:
        public = issuer.public_key()
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False
        )
    signed = builder.sign(issuer, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def pem(key: Key) -> str:
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, plain).decode()
