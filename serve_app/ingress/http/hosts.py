"""Host names in calls: fal's, which are fixed in its clients, and those of this Darkroom."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from ipaddress import ip_address

import psutil

DOMAINS = ("fal.run", "fal.ai", "fal.media", "falrun.com")
"""fal's domains. fal's clients use the last one as a fallback."""

NAMES = (
    *("fal.run", "queue.fal.run", "ws.fal.run", "falrun.com", "queue.falrun.com"),
    *("rest.fal.ai", "rest.alpha.fal.ai", "api.fal.ai"),
    *("fal.media", "v3.fal.media", "v3b.fal.media"),
)
"""Hosts that fal's clients call (by their source) or that fal's documentation names."""


class Service(StrEnum):
    """Service with a host of its own at fal, and a path prefix of its own here."""

    RUN = "run"
    QUEUE = "queue"
    REST = "rest"
    CDN = "cdn"


_BY_FIRST_LABEL: Mapping[str, Service] = {"queue": Service.QUEUE, "rest": Service.REST}


@lru_cache(256)  # few hosts, and every call has one
def is_fal(host: str) -> bool:
    """Return whether a host name, without a port, is one of fal's."""
    name = host.lower().rstrip(".")
    return name in DOMAINS or name.endswith(tuple(f".{domain}" for domain in DOMAINS))


@lru_cache(256)
def service_of(host: str) -> Service:
    """Service that ``host`` stands for. Unknown names, including Darkroom's own, mean run."""
    name = host.lower().rstrip(".")
    if name == "fal.media" or name.endswith(".fal.media"):
        return Service.CDN
    return _BY_FIRST_LABEL.get(name.partition(".")[0], Service.RUN)


def parent_of(host: str) -> str:
    """``host`` without the label that names a service: ``queue.example.org`` → ``example.org``."""
    first, _, rest = host.partition(".")
    return rest if first.lower() in _BY_FIRST_LABEL and rest else host


# Host names that clients may use to reach this Darkroom.

LOCAL = ("localhost", "127.0.0.1", "[::1]")

COMFYUI = "comfyui.localhost"
"""Host of ComfyUI's page on this machine: browsers take names below localhost for loopback, and for
another origin than localhost."""

_NAME = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d{1,5})?")


@lru_cache(256)
def name_and_port(host: str) -> tuple[str, str]:
    """Name in lower case, and port with its colon or nothing, of a Host header."""
    match = _NAME.match(host)
    return ("", "") if match is None else (match[1].lower(), match[2] or "")


def comfyui_host(host: str, setting: str | None) -> str | None:
    """Host name of ComfyUI's page for a browser that came to ``host``; None: it has none there.

    The page is a program of others, so it does not run at the origin where the playground keeps its
    key. ``setting``: the operator's choice; None: it has one on this machine only.
    """
    name, _ = name_and_port(host)
    return setting or (COMFYUI if name in (*LOCAL, COMFYUI) else None)


def trusted_names(bound: str, hosts: Iterable[str | None]) -> frozenset[str]:
    """Trusted values of the Host header, without the port.

    They are this machine's name and addresses, the address that it is ``bound`` to, and the
    operator's own list ``hosts``.
    """
    addresses = (
        address.address.partition("%")[0]
        for interface in psutil.net_if_addrs().values()
        for address in interface
    )
    own = (_bracket_ipv6(host) for host in (*addresses, bound))
    here = (*LOCAL, COMFYUI, socket.gethostname())
    return frozenset(name.lower() for name in (*here, *own, *hosts) if name)


def _bracket_ipv6(address: str) -> str:
    try:
        return f"[{address}]" if ip_address(address).version == 6 else address
    except ValueError:  # a name, or the address of a network card
        return address
