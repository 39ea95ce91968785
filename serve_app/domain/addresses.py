"""Policy for connections to hosts that users name: which addresses they may reach.

Webhooks, the files of inputs and the tunnels of the proxy use it. Each connects to the addresses
that ``connectable`` returns, never to the name, so that a name that resolves to another address a
moment later has no effect (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) → addresses. Raises ``OSError`` or ``UnicodeError`` if there is none."""

_NAT64 = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC = (
    IPv6Network("fec0::/10"),  # formerly site-local; some networks still route it
    IPv6Network("64:ff9b:1::/48"),  # NAT64 inside a network
)
_COMPATIBLE = IPv6Network("::/96")


class UnknownHost(Exception):
    """The host name does not resolve to any address."""

    def __init__(self, host: str) -> None:
        super().__init__(f"the host {host} is not known")
        self.host = host


class PrivateAddress(Exception):
    """The host name resolves to a private address, which is refused."""

    def __init__(self, host: str) -> None:
        super().__init__(f"the host {host} has a private address")
        self.host = host


async def connectable(
    host: str, port: int, resolve: Resolve, *, allow_private: bool = False
) -> Sequence[str]:
    """Addresses of ``host`` that may be connected to; at least one.

    Raises ``UnknownHost``, or ``PrivateAddress`` if any address of the host is private.
    """
    try:
        addresses = await resolve(host, port)
    except (OSError, UnicodeError):
        addresses = ()
    if not addresses:
        raise UnknownHost(host)
    if not allow_private and not all(map(is_public, addresses)):
        raise PrivateAddress(host)
    return addresses


def is_public(address: str) -> bool:
    """True if the address is public and does not embed a private one.

    IPv6 has several ways to write an IPv4 address, which could make a private one look public.
    Raises ``ValueError`` if it is not an address.
    """
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        hidden = _hidden(ip)
        if hidden is not None:
            return is_public(str(hidden))
        if any(ip in network for network in _NOT_PUBLIC):
            return False
    return ip.is_global and not ip.is_multicast


async def resolve(host: str, port: int) -> Sequence[str]:
    """All addresses of a host name, as the system resolves it."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(place[0]).partition("%")[0] for *_, place in found]


def _hidden(ip: IPv6Address) -> IPv4Address | None:
    """IPv4 address that traffic to ``ip`` ends at, or None."""
    if ip in _NAT64 or ip in _COMPATIBLE:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip.teredo is not None:
        return ip.teredo[1]
    return ip.ipv4_mapped or ip.sixtofour
