"""TLS port and proxy port, as `darkroom serve` has them, before any Darkroom."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from serve_app.cli.commands import environment
from serve_app.cli.connection.installation import Installation
from serve_app.cli.serve import haproxy
from serve_app.free_ports import free_ports
from serve_app.gateway.certificate_authority import CertificateAuthority
from serve_app.gateway.gateway import Gateway, GatewayPlan
from serve_app.telemetry.clock import SystemClock
from tests.node import node
from tests.wire.served import Address

TIMEOUT_S = 90.0
TRUST = ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "FAL_KEY")


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


@dataclass(frozen=True)
class Shell:
    """Environment for programs, and how `darkroom env` or an operator made it."""

    variables: Mapping[str, str]
    queue: str  # base of the URLs of requests

    @classmethod
    def of(cls, place: Installation, ways: Ways, mode: str) -> Self:
        """``mode``: of `darkroom env`, or ``aliases`` for fal's names pointing here."""
        with pytest.MonkeyPatch.context() as patch:  # the shell's Node.js is that of the tests
            patch.setenv("PATH", str(Path(node()).parent), prepend=os.pathsep)
            variables = environment.variables(place, "proxy" if mode == "aliases" else mode)
        if mode == "hosts":
            return cls(variables, f"{ways.tls_url}/queue")
        if mode == "aliases":
            trust = {name: variables[name] for name in TRUST}
            variables = {**trust, "ALIASES_PORT": str(ways.tls_port)}
        return cls(variables, "https://queue.fal.run")

    def output(self, *command: str | Path, **variables: str) -> str:
        """What the program writes to its standard output."""
        done = subprocess.run(
            command,
            env={"PATH": os.defpath, "HOME": "/nonexistent", **self.variables, **variables},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, *command: str | Path) -> dict[str, dict[str, Any]]:
        """Output of the program, by the name of its call."""
        lines = [json.loads(line) for line in self.output(*command).splitlines()]
        return {line["name"]: line for line in lines}


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
