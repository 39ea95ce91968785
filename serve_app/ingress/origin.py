"""Where the URLs that are handed out point to."""

from __future__ import annotations

import re
from urllib.parse import quote

from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import UntrustedHost
from serve_app.ingress.core import core_of

_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")


def origin_of(request: HttpRequest) -> str:
    """The configured public URL, or the host by which this client reached us; no final slash.

    ``UntrustedHost`` for a host that is none of ours: anybody can write one into a call, and it
    must not get into what is handed out. ``X-Forwarded-`` headers are never looked at.
    """
    core = core_of(request)
    config = core.config
    if config.public_url:
        return config.public_url.rstrip("/")
    host = request.headers.get("host") or f"{config.host}:{config.port}"
    found = _HOST.fullmatch(host)
    if found is None or found[1].lower() not in core.host_names:
        raise UntrustedHost(
            f"This Darkroom does not know itself as {host[:100]!r}, so it can hand out no URLs. "
            "Its operator should set DARKROOM_PUBLIC_URL to where clients reach it, or add the "
            "name to DARKROOM_TRUSTED_HOSTS."
        )
    scope = request.scope  # `request.url` would put a whole URL together and take it apart again
    return f"{scope.get('scheme', 'http')}://{host}{scope.get('root_path', '')}"


def file_url(origin: str, key: str) -> str:
    return f"{origin}/files/{quote(key)}"
