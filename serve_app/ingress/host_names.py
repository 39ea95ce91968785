"""The names that clients may know this Darkroom by."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import ip_address

import psutil

LOCAL = ("localhost", "127.0.0.1", "[::1]")


def trusted_names(bound: str, given: Iterable[str]) -> frozenset[str]:
    """As they stand in a Host header, without the port: this machine's own name and addresses, the
    address that it is ``bound`` to, and those that the operator has ``given``."""
    addresses = (
        address.address.partition("%")[0]
        for interface in psutil.net_if_addrs().values()
        for address in interface
    )
    own = (_bracketed(each) for each in (*addresses, bound))
    return frozenset(name.lower() for name in (*LOCAL, socket.gethostname(), *own, *given))


def _bracketed(address: str) -> str:
    try:
        return f"[{address}]" if ip_address(address).version == 6 else address
    except ValueError:  # a name, or the address of a network card
        return address
