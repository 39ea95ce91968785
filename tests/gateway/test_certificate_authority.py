"""Certificates of the installation: their names, their lifetime and the permissions of the keys."""

from __future__ import annotations

import ipaddress
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from serve_app.gateway import certificate_authority
from serve_app.gateway.certificate_authority import (
    RENEW_DAYS,
    SERVER_DAYS,
    CertificateAuthority,
    expiry,
)
from serve_app.ingress.http.hosts import NAMES
from tests.fakes.clock import FakeClock

DAY_S = 86400.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2030, 1, 1, tzinfo=UTC))


@pytest.fixture
def authority(tmp_path: Path, clock: FakeClock) -> CertificateAuthority:
    ca = CertificateAuthority(
        tmp_path / "tls", ("gpu-box", "[fd00::7]", "192.168.1.5", "00:11:22"), clock
    )
    ca.ensure()
    return ca


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def verify(
    authority: CertificateAuthority, leaf: x509.Certificate, name: str, at: datetime
) -> None:
    try:
        subject: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        subject = x509.DNSName(name)
    store = Store([certificate(authority.certificate)])
    builder = PolicyBuilder().store(store).time(at.replace(tzinfo=None))
    builder.build_server_verifier(subject).verify(leaf, [])


@pytest.mark.parametrize(
    "name", [*NAMES, "localhost", "queue.localhost", "127.0.0.1", "::1", "gpu-box", "192.168.1.5"]
)
def test_a_strict_verifier_accepts_the_server_under_every_name(
    authority: CertificateAuthority, clock: FakeClock, name: str
) -> None:
    verify(authority, certificate(authority.server), name, clock.now())


def test_it_cannot_vouch_for_anybody_else(
    authority: CertificateAuthority, clock: FakeClock
) -> None:
    key = serialization.load_pem_private_key(
        (authority.certificate.parent / "ca.key").read_bytes(), None
    )
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    template = certificate(authority.server)
    forged = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bank")]))
        .issuer_name(certificate(authority.certificate).subject)
        .public_key(template.public_key())
        .serial_number(7)
        .not_valid_before(clock.now() - timedelta(days=1))
        .not_valid_after(clock.now() + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("bank.example.org")]), critical=False
        )
        .add_extension(
            template.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value,
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(VerificationError):
        verify(authority, forged, "bank.example.org", clock.now())


def test_keys_are_for_their_owner_only(authority: CertificateAuthority) -> None:
    folder = authority.certificate.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("ca.key", "server.pem"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert b"PRIVATE" not in authority.bundle.read_bytes() + authority.certificate.read_bytes()


def test_it_stays_until_it_nears_its_end_and_is_then_renewed(
    authority: CertificateAuthority, clock: FakeClock
) -> None:
    before = authority.server.read_bytes()
    root = authority.certificate.read_bytes()
    assert not authority.ensure()
    clock.advance((SERVER_DAYS - RENEW_DAYS - 1) * DAY_S)
    assert not authority.ensure()
    assert authority.server.read_bytes() == before
    clock.advance(2 * DAY_S)
    assert authority.ensure()
    assert expiry(authority.server) == clock.now() + timedelta(days=SERVER_DAYS)
    assert authority.certificate.read_bytes() == root, "clients go on trusting it"
    verify(authority, certificate(authority.server), "fal.run", clock.now())


def test_an_authority_that_ends_before_its_server_is_replaced(
    authority: CertificateAuthority, clock: FakeClock
) -> None:
    root = authority.certificate.read_bytes()
    clock.advance(3600 * DAY_S)
    assert authority.ensure()
    assert authority.certificate.read_bytes() != root
    verify(authority, certificate(authority.server), "fal.run", clock.now())


def test_a_new_name_gets_a_new_certificate(
    authority: CertificateAuthority, tmp_path: Path, clock: FakeClock
) -> None:
    root = authority.certificate.read_bytes()
    moved = CertificateAuthority(tmp_path / "tls", ("gpu-box", "10.0.0.9"), clock)
    assert moved.ensure()
    assert moved.certificate.read_bytes() == root, (
        "private addresses are within what it vouches for"
    )
    verify(moved, certificate(moved.server), "10.0.0.9", clock.now())
    other = CertificateAuthority(tmp_path / "tls", ("images.example.org",), clock)
    assert other.ensure()
    assert other.certificate.read_bytes() != root
    verify(other, certificate(other.server), "images.example.org", clock.now())


@pytest.mark.parametrize("name", ["ca.key", "ca.pem", "server.pem"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAA\n"])
def test_what_is_missing_or_broken_is_made_again(
    authority: CertificateAuthority, clock: FakeClock, name: str, content: bytes | None
) -> None:
    path = authority.certificate.parent / name
    path.unlink() if content is None else path.write_bytes(content)
    assert authority.ensure()
    verify(authority, certificate(authority.server), "fal.run", clock.now())


def test_a_key_of_another_certificate_is_noticed(
    authority: CertificateAuthority, tmp_path: Path, clock: FakeClock
) -> None:
    other = CertificateAuthority(tmp_path / "other", (), clock)
    other.ensure()
    (tmp_path / "tls" / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    assert authority.ensure()
    verify(authority, certificate(authority.server), "fal.run", clock.now())


def test_the_bundle_has_all_that_this_machine_trusts_and_us(
    authority: CertificateAuthority,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.bundle)
    ours = ssl.PEM_cert_to_DER_cert(authority.certificate.read_text())
    known = set(context.get_ca_certs(binary_form=True))
    assert ours in known
    assert known >= set(ssl.create_default_context().get_ca_certs(binary_form=True))
    assert len(known) > 50


def test_a_bundle_that_a_shell_names_already_is_not_put_into_itself(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    before = authority.bundle.read_bytes()
    (authority.certificate.parent / "ca.key").unlink()
    authority.ensure()
    after = authority.bundle.read_bytes()
    assert after.count(b"BEGIN") == before.count(b"BEGIN")
    company = tmp_path / "company.pem"
    company.write_bytes(authority.certificate.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(company))
    assert company.read_bytes() in certificate_authority.trusted_roots(besides=authority.bundle)
