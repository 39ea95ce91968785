"""Where the URLs that are handed out point to."""

from __future__ import annotations

import re
from urllib.parse import quote

from starlette.requests import Request as HttpRequest

from serve_app.ingress.core import core_of

_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


def origin_of(request: HttpRequest) -> str:
    """The configured public URL, or the host by which this client reached us; no final slash."""
    config = core_of(request).config
    if config.public_url:
        return config.public_url.rstrip("/")
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        # Absent, or with characters that would break out of the URL.
        host = f"{config.host}:{config.port}"
    scope = request.scope  # `request.url` would put a whole URL together and take it apart again
    return f"{scope.get('scheme', 'http')}://{host}{scope.get('root_path', '')}"


def file_url(origin: str, key: str) -> str:
    return f"{origin}/files/{quote(key)}"
