"""Certificate authority of this installation, for the TLS port.

``https`` and fal's host names are fixed in fal's clients, so the TLS port answers under those names
with a certificate that clients must trust. Name constraints (RFC 5280) limit the authority to fal's
names, loopback, private addresses and the names from the operator's settings.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import certifi
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from serve_app.domain.ports import Clock
from serve_app.gateway.private_file import write
from serve_app.ingress.http.hosts import DOMAINS, NAMES

# Certificate authorities that programs on this machine trust. A program that is given a file of
# roots uses it instead of its own roots. Darkroom's bundle must therefore contain all of them, or
# other programs in the same shell could not reach any other server.

SYSTEM = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Arch, Alpine
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # Fedora and relatives
    Path("/etc/ssl/cert.pem"),  # macOS, the BSDs
)
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.S)


def trusted_roots(besides: Path) -> tuple[bytes, ...]:
    """Roots of Python, of the system and of ``SSL_CERT_FILE`` as PEM, without duplicates.

    ``besides`` is the bundle that is built from them. It is skipped, because ``SSL_CERT_FILE`` may
    already name it.
    """
    certificates: dict[bytes, None] = {}
    for path in _files():
        if path.is_file() and path.resolve() != besides.resolve():
            certificates.update(dict.fromkeys(_PEM.findall(path.read_bytes())))
    return tuple(pem + b"\n" for pem in certificates)


def _files() -> Iterator[Path]:
    yield Path(certifi.where())
    yield from SYSTEM
    paths = ssl.get_default_verify_paths()
    for name in (paths.openssl_cafile, paths.cafile):
        if name:
            yield Path(name)


AUTHORITY_DAYS = 3650
SERVER_DAYS = 180  # clients refuse certificates valid for over 825 days; the limit is going down
RENEW_DAYS = 60  # certificates are renewed this long before they expire
CLOCK_SKEW = timedelta(hours=1)

LOCAL_NAMES = ("localhost", "queue.localhost", "127.0.0.1", "::1")
PRIVATE = (
    *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
    *("::1/128", "fc00::/7", "fe80::/10"),
)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")

T = TypeVar("T", bound=x509.ExtensionType)
Key = ec.EllipticCurvePrivateKey
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: Key


class CertificateAuthority:
    """Certificate files in ``directory``: the authority, the server certificate and trust bundle.

    ``names`` are host names and addresses besides fal's and loopback. Public addresses and invalid
    names are ignored.
    """

    def __init__(self, directory: Path, names: Iterable[str], clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        hosts = {name.strip("[]").lower() for name in names}
        self._addresses = {
            address for name in (*LOCAL_NAMES, *hosts) if (address := _address(name))
        }
        self._names = {
            *(name for name in (*LOCAL_NAMES, *hosts) if not _address(name) and _is_name(name)),
            *(*DOMAINS, *NAMES),
            *(f"*.{domain}" for domain in DOMAINS),
        }

    @property
    def certificate(self) -> Path:
        """Path of the authority's certificate, for programs that add it to their own roots."""
        return self._directory / "ca.pem"

    @property
    def server(self) -> Path:
        """Path of the server certificate with its key, in one file as HAProxy needs it."""
        return self._directory / "server.pem"

    @property
    def bundle(self) -> Path:
        """Path of a file with all roots that this machine trusts and the authority's certificate.

        It is for programs that take one file instead of their own roots.
        """
        return self._directory / "bundle.pem"

    @property
    def _key(self) -> Path:
        return self._directory / "ca.key"

    def ensure(self) -> bool:
        """Create or renew files that are missing, broken, about to expire or lack a name.

        Returns True if the server certificate has changed.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = self._load(self.certificate, self._key)
        if authority is None or not self._can_vouch(authority):
            authority = self._make_authority()
            write(self._key, _pem_of_key(authority.key), secret=True)
            write(self.certificate, _pem(authority.certificate))
        changed = not self._serves(self._load(self.server, self.server), authority)
        if changed:
            server = self._make_server(authority)
            write(self.server, _pem(server.certificate) + _pem_of_key(server.key), secret=True)
        trusted = trusted_roots(besides=self.bundle)
        write(self.bundle, b"".join((*trusted, _pem(authority.certificate))))
        return changed

    def _load(self, certificate: Path, key: Path) -> KeyPair | None:
        """Load a pair; None if a file is missing or broken, so that it is created again."""
        try:
            loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
            private = serialization.load_pem_private_key(key.read_bytes(), password=None)
        except (OSError, ValueError, TypeError):
            return None
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            return None
        if loaded.public_key() != private.public_key():
            return None
        return KeyPair(loaded, private)

    def _can_vouch(self, authority: KeyPair) -> bool:
        """Return True if the authority covers every name and outlives a new server certificate."""
        last = self._clock.now() + timedelta(days=SERVER_DAYS)
        if authority.certificate.not_valid_after_utc <= last:
            return False
        constraints = _extension(authority.certificate, x509.NameConstraints)
        permitted = (constraints.permitted_subtrees or ()) if constraints else ()
        allowed = {subtree.value for subtree in permitted if isinstance(subtree, x509.DNSName)}
        return all(_parent(name, allowed) for name in self._names)

    def _serves(self, server: KeyPair | None, authority: KeyPair) -> bool:
        """Return True if ``server`` has all names, is not about to expire and was issued by
        ``authority``."""
        if server is None:
            return False
        soon = self._clock.now() + timedelta(days=RENEW_DAYS)
        if server.certificate.not_valid_after_utc <= soon:
            return False
        try:
            server.certificate.verify_directly_issued_by(authority.certificate)
        except (InvalidSignature, ValueError, TypeError):
            return False
        extension = _extension(server.certificate, x509.SubjectAlternativeName)
        return extension is not None and set(extension) >= set(self._alternative_names())

    def _alternative_names(self) -> list[x509.GeneralName]:
        vouched = [ipaddress.ip_network(network) for network in PRIVATE]
        addresses = [
            address for address in self._addresses if any(address in voucher for voucher in vouched)
        ]
        return [
            *(x509.DNSName(name) for name in sorted(self._names)),
            *(x509.IPAddress(address) for address in sorted(addresses, key=str)),
        ]

    def _make_authority(self) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _subject("Darkroom, this installation's own authority")
        apex = {name.removeprefix("*.") for name in self._names}
        permitted = [
            *(
                x509.DNSName(domain)
                for domain in sorted(apex)
                if not _parent(domain, apex - {domain})
            ),
            *(x509.IPAddress(ipaddress.ip_network(network)) for network in PRIVATE),
        ]
        public = key.public_key()
        certificate = (
            self._builder(name, name, key, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.NameConstraints(permitted, None), critical=True)
            .sign(key, hashes.SHA256())
        )
        return KeyPair(certificate, key)

    def _make_server(self, authority: KeyPair) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = authority.certificate
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
        certificate = (
            self._builder(_subject("Darkroom"), issuer.subject, key, SERVER_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(identifier, critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName(self._alternative_names()), critical=False)
            .sign(authority.key, hashes.SHA256())
        )
        return KeyPair(certificate, key)

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: Key, days: int
    ) -> x509.CertificateBuilder:
        now = self._clock.now()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + timedelta(days=days))
        )


def expiry(certificate: Path) -> datetime:
    """Expiry of the first certificate in a PEM file. Raises ``OSError`` or ``ValueError``."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def _extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _usage(*, signs: bool) -> x509.KeyUsage:
    """Key usage: ``signs`` for a server key, which signs handshakes; otherwise for an authority."""
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not signs,
        crl_sign=not signs,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _parent(name: str, domains: Iterable[str]) -> bool:
    """Return True if ``name`` is one of ``domains`` or a subdomain of one."""
    bare = name.removeprefix("*.")
    return any(bare == domain or bare.endswith(f".{domain}") for domain in domains)


def _address(name: str) -> Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _is_name(name: str) -> bool:
    return len(name) <= 253 and _NAME.fullmatch(name) is not None


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_of_key(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
