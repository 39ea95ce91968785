"""Links that ``darkroom serve`` prints: they open the page signed in, once."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

from serve_app.cli.connection.client import Client
from serve_app.cli.connection.installation import Installation
from serve_app.cli.connection.one_time_link import network_lines, offer_link
from serve_app.cli.serve.ports import is_loopback
from serve_app.domain.errors import DarkroomError
from serve_app.gateway.gateway import WILDCARD_ADDRESSES, host_port

PROBES = (
    (socket.AF_INET, ("192.0.2.1", 9)),
    (socket.AF_INET6, ("2001:db8::1", 9)),
)
"""Addresses for documentation (RFC 5737, RFC 3849). A UDP socket that is connected to one sends
nothing, but has the address with which this machine reaches others."""


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


def link_lines(origin: str, network: str | None, offer: Callable[[], str]) -> Iterator[str]:
    """Lines for a terminal: a link, and one for other machines with its QR code. Each is a link of
    its own, from ``offer``, since the first browser that opens one ends it."""
    yield f"Open the page, signed in: {origin}{offer()}"
    if network is not None:
        yield from network_lines(f"{network}{offer()}")
    yield f"{'Each link' if network else 'The link'} works once, for 12 hours."


def print_links(
    installation: Installation, origin: str, network: str | None, echo: Callable[[str], None]
) -> None:
    """Print the links of a Darkroom that has started. A key that may not make any, such as one that
    was revoked, does not make the start fail."""
    try:
        with Client(installation) as client:
            for line in link_lines(origin, network, lambda: str(offer_link(client)["path"])):
                echo(line)
    except DarkroomError as error:
        echo(f"Open {origin} and paste an API key. There is no link: {error.message}")


def _own_address() -> str | None:
    for family, probe in PROBES:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as unsent:
                unsent.connect(probe)
                address = str(unsent.getsockname()[0])
        except OSError:
            continue
        if not is_loopback(address):
            return address
    return None
