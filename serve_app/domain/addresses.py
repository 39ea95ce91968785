"""Which addresses a URL of somebody else may lead to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

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


def _hidden(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that traffic to ``ip`` ends at, if there is one."""
    if ip in _NAT64 or ip in _COMPATIBLE:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip.teredo is not None:
        return ip.teredo[1]
    return ip.ipv4_mapped or ip.sixtofour
