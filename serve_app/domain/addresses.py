"""Which addresses a URL of somebody else may lead to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port → its addresses; ``OSError`` or ``UnicodeError`` where there is none."""

_NAT64 = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC = (
    IPv6Network("fec0::/10"),  # once for sites, and still routed by some
    IPv6Network("64:ff9b:1::/48"),  # NAT64 of a network's own
)
_COMPATIBLE = IPv6Network("::/96")


def is_public(address: str) -> bool:
    """Whether the address is one of the open internet, and hides none that is not.

    IPv6 has several ways to write an IPv4 address, by which a private one would pass for public.
    ``ValueError`` for what is no address.
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
    """All addresses of a name, as the system knows them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(place[0]).partition("%")[0] for *_, place in found]


def _hidden(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that traffic to ``ip`` ends at, if there is one."""
    if ip in _NAT64 or ip in _COMPATIBLE:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip.teredo is not None:
        return ip.teredo[1]
    return ip.ipv4_mapped or ip.sixtofour
