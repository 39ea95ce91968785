"""fal's host names: clients have them fixed, so calls arrive under them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache

DOMAINS = ("fal.run", "fal.ai", "fal.media", "falrun.com")
"""Everything in them is fal's; the last one is what fal's clients fall back to."""

NAMES = (
    *("fal.run", "queue.fal.run", "ws.fal.run", "falrun.com", "queue.falrun.com"),
    *("rest.fal.ai", "rest.alpha.fal.ai", "api.fal.ai"),
    *("fal.media", "v3.fal.media", "v3b.fal.media"),
)
"""Those that fal's clients call, as their source says, and those that its documentation names."""


class Service(StrEnum):
    """What fal has a host for, and Darkroom a prefix of paths."""

    RUN = "run"
    QUEUE = "queue"
    REST = "rest"
    CDN = "cdn"


_BY_FIRST_LABEL: Mapping[str, Service] = {"queue": Service.QUEUE, "rest": Service.REST}


@lru_cache(256)  # few hosts, and every call has one
def is_fal(host: str) -> bool:
    """Whether a host name, without a port, is one of fal's."""
    name = host.lower().rstrip(".")
    return name in DOMAINS or name.endswith(tuple(f".{domain}" for domain in DOMAINS))


@lru_cache(256)
def service_of(host: str) -> Service:
    """What calls to ``host`` are about. Unknown names, Darkroom's own among them, mean run."""
    name = host.lower().rstrip(".")
    if name == "fal.media" or name.endswith(".fal.media"):
        return Service.CDN
    return _BY_FIRST_LABEL.get(name.partition(".")[0], Service.RUN)


def parent_of(host: str) -> str:
    """``host`` without the label that names a service: ``queue.example.org`` → ``example.org``."""
    first, _, rest = host.partition(".")
    return rest if first.lower() in _BY_FIRST_LABEL and rest else host
