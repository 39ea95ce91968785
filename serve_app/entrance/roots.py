"""The certificate authorities that programs on this machine trust.

A file of roots that is named to a program takes the place of its own, so ours has to have them all,
or whatever else runs in the same shell reaches nobody any more.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import certifi

SYSTEM = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Arch, Alpine
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # Fedora and its like
    Path("/etc/ssl/cert.pem"),  # macOS, the BSDs
)
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.S)


def trusted_here(besides: Path) -> tuple[bytes, ...]:
    """Each root once, as PEM: Python's own, the system's, those of ``SSL_CERT_FILE``. ``besides``
    is the file that is made of them, which that variable may name already."""
    found: dict[bytes, None] = {}
    for path in _files():
        if path.is_file() and path.resolve() != besides.resolve():
            found.update(dict.fromkeys(_PEM.findall(path.read_bytes())))
    return tuple(pem + b"\n" for pem in found)


def _files() -> Iterator[Path]:
    yield Path(certifi.where())
    yield from SYSTEM
    paths = ssl.get_default_verify_paths()
    for name in (paths.openssl_cafile, paths.cafile):
        if name:
            yield Path(name)
