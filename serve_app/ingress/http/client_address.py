"""Address of a call's client, for the audit log.

HAProxy forwards every call, so the peer of this process is always this machine. `darkroom serve`
has both of its HAProxy processes write the address of their peer into a header, beside a secret
that is made at each start: only what knows the secret is believed. On a cluster, the operator's own
proxy can do the same.

That peer may be a proxy too. Its ``X-Forwarded-For`` is believed if it is one of
``DARKROOM_TRUSTED_PROXIES``.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.requests import HTTPConnection

from serve_app.ingress.services.services import services_of

CLIENT = "x-darkroom-client"
SECRET = "x-darkroom-proxy-secret"  # noqa: S105 the name of a header
FORWARDED = "x-forwarded-for"

Network = IPv4Network | IPv6Network


def client_address(request: HTTPConnection) -> str:
    """IP address of the client, or of the last proxy that is not trusted. Empty if not known."""
    services = services_of(request)
    address = parse_address(_peer(request, services.proxy_secret))
    forwarded = ",".join(request.headers.getlist(FORWARDED)).split(",")
    trusted = services.config.server.trusted_proxies
    while forwarded and address is not None and within(address, trusted):
        before = parse_address(forwarded.pop())
        if before is None:
            break
        address = before
    return "" if address is None else str(address)


@lru_cache(1024)  # most calls of a client come from one address
def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """An address as a proxy or a socket writes it; None if it is not one."""
    try:
        address = ip_address(text.strip().removeprefix("[").removesuffix("]"))
    except ValueError:  # a Unix socket, a name, or nothing
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def within(address: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _peer(request: HTTPConnection, secret: str) -> str:
    header = request.headers.get(SECRET, "").encode("latin-1")
    if secret and hmac.compare_digest(header, secret.encode()):
        return request.headers.get(CLIENT, "")
    return "" if request.client is None else request.client.host
