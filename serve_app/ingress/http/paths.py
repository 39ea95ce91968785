"""fal's URL paths: ``owner/alias[/path…]`` and ``owner/alias/requests/{id}[/…]``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote

NAMESPACES = frozenset({"workflows", "comfy"})


class Part(StrEnum):
    """What of a request is meant."""

    RESULT = "result"
    STATUS = "status"
    STATUS_STREAM = "status_stream"
    CANCEL = "cancel"


_TAILS: Mapping[tuple[str, ...], Part] = {
    (): Part.RESULT,
    ("response",): Part.RESULT,
    ("status",): Part.STATUS,
    ("status", "stream"): Part.STATUS_STREAM,
    ("cancel",): Part.CANCEL,
}


@dataclass(frozen=True, slots=True)
class RequestPath:
    """A path that names a request."""

    app: str  # the part before ``/requests/``: ``owner/alias``, or the endpoint's whole id
    request_id: str
    part: Part

    def fits(self, endpoint_id: str) -> bool:
        """Whether ``app`` is one under which the endpoint's requests are found."""
        return self.app in (endpoint_id, app_of(endpoint_id))


def app_of(endpoint_id: str) -> str:
    """``[namespace/]owner/alias`` of an endpoint's id: what fal's clients use after the submit."""
    parts = endpoint_id.split("/")
    return "/".join(parts[: 3 if parts[0] in NAMESPACES else 2])


def alias_of(endpoint_id: str) -> str:
    """What fal's clients say of it when they ask for a token."""
    return app_of(endpoint_id).rpartition("/")[2]


def before(path: str, verb: str, known: Callable[[str], bool]) -> str | None:
    """The endpoint's id in ``owner/alias/…/verb``, or the whole where only that is ``known``: ids
    may end like that themselves. None when ``path`` does not end with the verb."""
    stem = path.strip("/").removesuffix(f"/{verb}")
    if stem == path.strip("/"):
        return None
    return path.strip("/") if known(path.strip("/")) and not known(stem) else stem


def parse(path: str) -> RequestPath | None:
    """None when ``path`` names no request: then it is an endpoint's id, or nothing."""
    segments = path.strip("/").split("/")
    if "requests" not in segments[2:]:
        return None
    at = segments.index("requests", 2)
    part = _TAILS.get(tuple(segments[at + 2 :]))
    if part is None or at + 1 >= len(segments):
        return None
    return RequestPath("/".join(segments[:at]), segments[at + 1], part)


def request_urls(base: str, endpoint_id: str, request_id: str) -> dict[str, str]:
    """The three URLs of a request; ``base`` is the origin with the prefix that the client used."""
    response_url = f"{base}/{quote(app_of(endpoint_id))}/requests/{request_id}"
    return {
        "response_url": response_url,
        "status_url": f"{response_url}/status",
        "cancel_url": f"{response_url}/cancel",
    }
