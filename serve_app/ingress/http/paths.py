"""URL paths: where each protocol is served, and fal's paths of endpoints and requests.

fal's paths are ``owner/alias[/path…]`` and ``owner/alias/requests/{id}[/…]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote

from typing_extensions import TypedDict

OPENAI_PREFIX = "/openai/v1"
REPLICATE_PREFIX = "/replicate/v1"
COMFYUI_PREFIX = "/comfyui"
MCP_PATH = "/mcp"

NAMESPACES = frozenset({"workflows", "comfy"})


class RequestResource(StrEnum):
    """Resource of a request that a URL names."""

    RESULT = "result"
    STATUS = "status"
    STATUS_STREAM = "status_stream"
    CANCEL = "cancel"


_TAILS: Mapping[tuple[str, ...], RequestResource] = {
    (): RequestResource.RESULT,
    ("response",): RequestResource.RESULT,
    ("status",): RequestResource.STATUS,
    ("status", "stream"): RequestResource.STATUS_STREAM,
    ("cancel",): RequestResource.CANCEL,
}


@dataclass(frozen=True, slots=True)
class RequestPath:
    """Parts of a path that names a request."""

    app: str  # the part before ``/requests/``: ``owner/alias``, or the endpoint's whole id
    request_id: str
    part: RequestResource

    def fits(self, endpoint_id: str) -> bool:
        """Return whether the endpoint's requests can be found under ``app``."""
        return self.app in (endpoint_id, app_of(endpoint_id))


def app_of(endpoint_id: str) -> str:
    """``[namespace/]owner/alias`` of an endpoint's id, which fal's clients use after the submit."""
    parts = endpoint_id.split("/")
    return "/".join(parts[: 3 if parts[0] in NAMESPACES else 2])


def alias_of(endpoint_id: str) -> str:
    """Alias of an endpoint. fal's clients use it when they ask for a token."""
    return app_of(endpoint_id).rpartition("/")[2]


def strip_verb(path: str, verb: str, known: Callable[[str], bool]) -> str | None:
    """Endpoint id in ``owner/alias/…/verb``; None if ``path`` does not end with the verb.

    It is the whole path if only that is a ``known`` id, because ids may end with the verb.
    """
    stem = path.strip("/").removesuffix(f"/{verb}")
    if stem == path.strip("/"):
        return None
    return path.strip("/") if known(path.strip("/")) and not known(stem) else stem


def parse(path: str) -> RequestPath | None:
    """Parse a path; None if it does not name a request (it may be an endpoint's id)."""
    segments = path.strip("/").split("/")
    if "requests" not in segments[2:]:
        return None
    at = segments.index("requests", 2)
    part = _TAILS.get(tuple(segments[at + 2 :]))
    if part is None or at + 1 >= len(segments):
        return None
    return RequestPath("/".join(segments[:at]), segments[at + 1], part)


class RequestUrls(TypedDict):
    """URLs of a request."""

    response_url: str
    status_url: str
    cancel_url: str


def request_urls(base: str, endpoint_id: str, request_id: str) -> RequestUrls:
    """Build the three URLs of a request. ``base``: origin and prefix that the client used."""
    response_url = f"{base}/{quote(app_of(endpoint_id))}/requests/{request_id}"
    return {
        "response_url": response_url,
        "status_url": f"{response_url}/status",
        "cancel_url": f"{response_url}/cancel",
    }
