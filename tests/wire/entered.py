"""TLS port and proxy port, as `darkroom serve` has them, before any Darkroom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from serve_app.cli.connection.installation import Installation
from serve_app.cli.serve import haproxy
from serve_app.free_ports import free_ports
from serve_app.gateway.certificate_authority import CertificateAuthority
from serve_app.gateway.gateway import Gateway, GatewayPlan
from serve_app.telemetry.clock import SystemClock
from tests.wire.served import Address


@dataclass(frozen=True)
class Ways:
    """Origins of both ports, and the certificate that clients have to trust."""

    tls_url: str
    proxy_url: str
    bundle: Path
    certificate: Path

    @property
    def tls_port(self) -> int:
        port = urlsplit(self.tls_url).port
        assert port is not None
        return port


def write_installation(address: Address, ways: Ways, folder: Path) -> Installation:
    """Make ``folder`` the data directory of a `darkroom serve` that runs with these ports."""
    addresses = {"url": address.url, "tls_url": ways.tls_url, "proxy_url": ways.proxy_url}
    (folder / "run.json").write_text(json.dumps(addresses))
    (folder / "api_key").write_text(address.key)
    return Installation(folder)


@contextmanager
def start_gateway(http_url: str, folder: Path) -> Iterator[Ways]:
    """Both ports before the Darkroom at ``http_url``; closed when the block ends."""
    if not haproxy.available():
        pytest.skip("no HAProxy for this machine")
    place = urlsplit(http_url)
    assert place.port is not None
    tls, proxy = free_ports(2)
    clock, here = SystemClock(), "127.0.0.1"
    plan = GatewayPlan((str(place.hostname), place.port), (here, tls), (here, proxy))
    messages: list[str] = []
    entrance = Gateway(
        plan, folder / "tls", folder / "run", haproxy.binary(), clock, messages.append
    )
    try:
        entrance.start()
        files = CertificateAuthority(folder / "tls", (), clock)
        yield Ways(
            f"https://{here}:{tls}", f"http://{here}:{proxy}", files.bundle, files.certificate
        )
    finally:
        entrance.aclose()
    assert messages == [], "nothing had to be mended"
