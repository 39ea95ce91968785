"""What ``darkroom doctor`` says of the TLS port, its certificate and the proxy port."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from serve_app.cli import way_in
from serve_app.cli.installation import Installation
from serve_app.domain.errors import Misconfigured
from serve_app.entrance.authority import Authority, expiry
from serve_app.settings import Config
from serve_app.telemetry.clock import SystemClock

PATIENCE_S = 5.0
SOON = timedelta(days=14)  # the installation's own are renewed long before


def of_running(installation: Installation, config: Config) -> list[tuple[str, Callable[[], str]]]:
    """Checks by name, for a Darkroom that runs."""
    files = Authority(installation.tls_dir, (), SystemClock())
    tls = installation.tls_url()
    checks = [("proxy port", lambda: _proxy(installation))]
    if tls is None:
        return [("tls port", lambda: "none"), *checks]
    shown = config.tls_certificate or files.server
    return [
        ("tls port", lambda: _handshake(tls, files.bundle)),
        ("certificate", lambda: certificate(shown)),
        *checks,
    ]


def ports(config: Config) -> str:
    """Those that would be opened now. ``Misconfigured`` when one that a setting names is taken."""
    plan = way_in.plan(config, config.host, config.port)
    tls = "none" if plan.tls is None else plan.tls[1]
    proxy = "none" if plan.proxy is None else plan.proxy[1]
    return f"TLS {tls}, proxy {proxy}"


def certificate(path: Path) -> str:
    """Until when it is good. ``Misconfigured`` when that is soon, or was."""
    try:
        end = expiry(path)
    except (OSError, ValueError) as error:
        raise Misconfigured(f"The certificate {path} cannot be read: {error}.") from None
    now = SystemClock().now()
    if end <= now + SOON:
        word = "ended" if end <= now else "ends"
        raise Misconfigured(
            f"The certificate {path} {word} on {end:%Y-%m-%d}. Renew it if it is your "
            "own; else remove it and start Darkroom again."
        )
    return f"{path}, until {end:%Y-%m-%d}"


def _handshake(url: str, bundle: Path) -> str:
    """Under one of fal's names, as a client would that the proxy port has led there."""
    place = urlsplit(url)
    name = "fal.run"
    try:
        context = ssl.create_default_context(cafile=bundle)
        address = (str(place.hostname), place.port or 443)
        with (
            socket.create_connection(address, PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=name) as secure,
        ):
            return f"{url} speaks {secure.version()}, and is trusted as {name}"
    except ssl.SSLError as error:
        raise Misconfigured(f"{url} is not trusted by {bundle}: {error.reason}.") from None
    except OSError as error:
        raise Misconfigured(f"{url} does not answer: {error}.") from None


def _proxy(installation: Installation) -> str:
    url = installation.proxy_url()
    if url is None:
        return "none"
    place = urlsplit(url)
    try:
        socket.create_connection((str(place.hostname), place.port or 80), PATIENCE_S).close()
    except OSError as error:
        raise Misconfigured(f"{url} does not answer: {error}.") from None
    return url
