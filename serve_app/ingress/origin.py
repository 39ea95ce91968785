"""Where the URLs that are handed out point to."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote

from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import UntrustedHost
from serve_app.ingress.core import core_of
from serve_app.ingress.fal.hosts import is_fal, parent_of

SCHEME = "x-darkroom-scheme"
"""Set by our own TLS port, which speaks plain HTTP to us. Whoever else sets it gets URLs with a
scheme of his own choice."""

LOOPBACK = ("127.0.0.1", "localhost")

_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")


def origin_of(request: HttpRequest) -> str:
    """The configured public URL, or the host by which this client reached us; no final slash.

    ``UntrustedHost`` for a host that is none of ours: anybody can write one into a call, and it
    must not get into what is handed out. ``X-Forwarded-`` headers are never looked at.
    """
    config = core_of(request).config
    if config.public_url:
        return config.public_url.rstrip("/")
    host = host_of(request)
    fals, by_tls = is_fal(host.partition(":")[0]), request.headers.get(SCHEME) == "https"
    if fals and by_tls and config.host in LOOPBACK:
        # Only this machine reaches us, and here fal's names lead to us in some shells alone: what
        # a browser is to open has to have our own.
        return f"http://{config.host}:{config.port}"
    secure = fals or by_tls  # fal's clients know no other scheme
    scope = request.scope  # `request.url` would put a whole URL together and take it apart again
    scheme = "https" if secure else scope.get("scheme", "http")
    return f"{scheme}://{host}{scope.get('root_path', '')}"


def host_of(request: HttpRequest) -> str:
    """The host, with its port, by which this client reached us: a name of ours, one of fal's that
    leads to us, or a service below one of ours. ``UntrustedHost`` for any other."""
    core = core_of(request)
    host = request.headers.get("host") or f"{core.config.host}:{core.config.port}"
    if not _is_known(host, core.host_names):
        raise UntrustedHost(
            f"This Darkroom does not know itself as {host[:100]!r}, so it can hand out no URLs. "
            "Its operator should set DARKROOM_PUBLIC_URL to where clients reach it, or add the "
            "name to DARKROOM_TRUSTED_HOSTS."
        )
    return host


@lru_cache(256)  # few hosts, and every call has one
def _is_known(host: str, names: frozenset[str]) -> bool:
    found = _HOST.fullmatch(host)
    name = found[1].lower() if found is not None else ""
    return name in names or is_fal(name) or parent_of(name) in names


def file_url(origin: str, key: str) -> str:
    return f"{origin}/files/{quote(key)}"
