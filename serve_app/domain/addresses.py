"""Policy for connections to hosts that users name: which addresses they may reach.

Webhooks, the files of inputs and the tunnels of the proxy use it. Each connects to the addresses
that ``connectable`` returns, never to the name, so that a name that resolves to another address a
moment later has no effect (DNS rebinding).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) → addresses. Raises ``OSError`` or ``UnicodeError`` if there is none."""

_NAT64 = IPv6Network("64:ff9b::/96")
"""IPv4 addresses in networks without IPv4. Each is judged by the address that it contains."""

_ASSIGNED = IPv6Network("2000::/3")
"""All of IPv6 that is assigned for public use. Outside of it are private, mapped, compatible and
translated addresses, and 100:0:0:1::/64 and 5f00::/16."""

# ``ipaddress`` calls some of these public, depending on the version of Python.
_RESERVED_IPV4 = tuple(
    map(
        IPv4Network,
        (
            "168.63.129.16/32",  # Azure's virtual machines reach their host there
            "192.0.0.0/24",  # protocol assignments; 192.0.0.192 serves Oracle Cloud's metadata
            "192.88.99.0/24",  # relays of 6to4
        ),
    )
)
_RESERVED_IPV6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments, Teredo among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which contains an IPv4 address
            "3fff::/20",  # documentation
        ),
    )
)


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
    """True if the address is public and no other notation of a private one.

    Raises ``ValueError`` if it is not an address.
    """
    ip = ip_address(address)
    if isinstance(ip, IPv6Address) and ip in _NAT64:
        ip = IPv4Address(int(ip) & 0xFFFFFFFF)
    if isinstance(ip, IPv4Address):
        reserved = any(ip in network for network in _RESERVED_IPV4)
    else:
        reserved = ip not in _ASSIGNED or any(ip in network for network in _RESERVED_IPV6)
    return ip.is_global and not ip.is_multicast and not reserved


_WEB = re.compile(r"https?://[^\s/?#]+\S*", re.I)
_INLINE = re.compile(r"data:[^,]*,", re.I)


def is_file_url(text: str) -> bool:
    """Return whether an input may name a file by ``text``: an http(s) URL, or a data URI."""
    return bool(_WEB.fullmatch(text) or _INLINE.match(text))
