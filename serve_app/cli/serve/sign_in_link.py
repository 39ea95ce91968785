"""Link that opens the page signed in, and its QR code for a phone."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from urllib.parse import quote

from serve_app.cli.serve.ports import is_loopback
from serve_app.gateway.gateway import WILDCARD_ADDRESSES, host_port

PROBES = (
    (socket.AF_INET, ("192.0.2.1", 9)),
    (socket.AF_INET6, ("2001:db8::1", 9)),
)
"""Addresses for documentation (RFC 5737, RFC 3849). A UDP socket that is connected to one sends
nothing, but has the address with which this machine reaches others."""


def sign_in_link(origin: str, key: str) -> str:
    """Address of the page with the key in its fragment, which browsers do not send.

    The page stores the key and removes it from the address bar.
    """
    return f"{origin}/#key={quote(key, safe=':')}"


def network_origin(host: str, port: int, public_url: str | None) -> str | None:
    """Origin at which other machines reach a server that listens on ``host``.

    None if it listens on loopback only, or if this machine has no network.
    """
    if public_url is not None:
        return public_url.rstrip("/")
    if is_loopback(host):
        return None
    address = _own_address() if host in WILDCARD_ADDRESSES else host
    return None if address is None else f"http://{host_port((address, port))}"


def link_lines(origin: str, network: str | None, key: str) -> Iterator[str]:
    """Lines for a terminal: the link, and the one of other machines with its QR code."""
    yield f"Open the page, signed in: {sign_in_link(origin, key)}"
    if network is None:
        return
    link = sign_in_link(network, key)
    yield f"From a phone or another machine: {link}\n"
    yield qr_code(link)
    if network.startswith("http:"):
        yield (
            "The link has the key: keep it to yourself. Without HTTPS, others on the network can "
            "read it."
        )


def qr_code(text: str) -> str:
    """QR code in half blocks, for a dark terminal."""
    import segno  # noqa: PLC0415 only terminals need it

    drawn = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(drawn, border=2, compact=True)
    return drawn.getvalue()


def _own_address() -> str | None:
    for family, probe in PROBES:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as unsent:
                unsent.connect(probe)
                found = str(unsent.getsockname()[0])
        except OSError:
            continue
        if not is_loopback(found):
            return found
    return None
