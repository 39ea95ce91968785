"""Certificates that sign files: what is refused before a file is signed for nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID

from serve_app.domain.errors import Misconfigured
from serve_app.provenance.certificates import (
    LOCAL_NAME,
    local_identity,
    problems,
    read_identity,
)
from tests.provenance.certificates import NOW, certificate, pem


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def test_every_process_derives_the_same_local_certificates_and_says_that_they_are_local() -> None:
    first, two = local_identity(b"a" * 32), local_identity(b"a" * 32)
    assert first.chain == two.chain
    assert local_identity(b"b" * 32).chain != first.chain
    signer, root = first.certificates
    signer.verify_directly_issued_by(root)
    assert LOCAL_NAME in first.name
    assert problems(first, NOW) == []


def test_a_signature_has_the_form_of_cose(key: ec.EllipticCurvePrivateKey) -> None:
    identity = read_identity(certificate(key).encode(), pem(key).encode())
    assert identity.name == "Studio signer"
    signature = identity.sign(b"claim")
    assert len(signature) == 64
    numbers = (int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    der = encode_dss_signature(*numbers)
    key.public_key().verify(der, b"claim", ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ({"use": None}, "extended key usage"),
        ({"use": ExtendedKeyUsageOID.SERVER_AUTH}, "extended key usage"),
        ({"use": ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}, "extended key usage"),
        ({"signs": False}, "digitalSignature"),
        ({"is_authority": True}, "certificate of an authority"),
        ({"names_issuer": False}, "authority key identifier"),
    ],
)
def test_a_certificate_that_readers_refuse_is_refused_at_the_start(
    key: ec.EllipticCurvePrivateKey, mistake: dict[str, Any], words: str
) -> None:
    with pytest.raises(Misconfigured, match=words):
        read_identity(certificate(key, **mistake).encode(), pem(key).encode())


def test_a_key_that_does_not_belong_or_cannot_sign_by_es256_is_refused(
    key: ec.EllipticCurvePrivateKey,
) -> None:
    chain = certificate(key).encode()
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(Misconfigured, match="does not belong"):
        read_identity(chain, pem(other).encode())
    wide = rsa.generate_private_key(65537, 2048)
    with pytest.raises(Misconfigured, match="P-256"):
        read_identity(certificate(wide).encode(), pem(wide).encode())
    with pytest.raises(Misconfigured, match="SIGNING_CERTIFICATE is no PEM"):
        read_identity(b"nothing", pem(key).encode())
    with pytest.raises(Misconfigured, match="no private key"):
        read_identity(chain, b"nothing")


@pytest.mark.parametrize(
    ("dates", "words"),
    [
        ({"days": 61 + 1}, None),
        ({"days": 60}, "expires on 2027-01-21, in 59 days"),
        ({"days": 1, "starts": timedelta(days=-3)}, "expired on 2026-11-21"),
        ({"starts": timedelta(days=2)}, "clock"),
    ],
)
def test_an_operator_hears_of_an_expiry_sixty_days_before(
    key: ec.EllipticCurvePrivateKey, dates: dict[str, Any], words: str | None
) -> None:
    identity = read_identity(certificate(key, **dates).encode(), pem(key).encode())
    text = " ".join(problems(identity, NOW))
    assert (words in text) if words else (text == "")
