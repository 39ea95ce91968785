"""The page at ``/``: static files, shipped with the package, that call what everybody calls."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.domain.errors import NotFound
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.settings import Config

FOLDER = Path(__file__).parents[1] / "page"
INDEX = "index.html"

TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What is served, by suffix; anything else in the folder is not."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it goes out."""

    content: bytes
    media_type: str
    etag: str


async def index(request: HttpRequest) -> Response:
    """The page itself. It takes no key: it holds nothing until its reader gives it one."""
    return await _answer(request, INDEX)


async def part(request: HttpRequest) -> Response:
    """What the page is made of: its scripts, its styles, its icon."""
    return await _answer(request, request.path_params["name"])


ROUTES = [
    Route("/", index, methods=["GET", "HEAD"]),
    Route("/page/{name}", part, methods=["GET", "HEAD"]),
]


async def _answer(request: HttpRequest, name: str) -> Response:
    exchange_of(request).route = "page"
    found = (await asyncio.to_thread(_files)).get(name)
    if found is None:
        raise NotFound(f"The page has no {name[:100]}.")
    headers = {
        "content-type": found.media_type,
        "etag": found.etag,
        # Asked for anew each time, and answered with 304: a page never runs on parts of another
        # version of Darkroom.
        "cache-control": "no-cache",
        "content-security-policy": policy(core_of(request).config),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
    }
    if request.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers)


def policy(config: Config) -> str:
    """The Content-Security-Policy: scripts and calls of this origin only, none of them inline, and
    no text that becomes markup. Artifacts may come from elsewhere: see ``_origins``."""
    media = " ".join(("'self' data: blob:", *_origins(config)))
    rules = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": media,
        "media-src": media,
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _origins(config: Config) -> Iterator[str]:
    """Where artifacts come from besides the page's own origin: ``public_url``, which can be another
    than the one by which the page was reached, and the store to which downloads are redirected."""
    if config.public_url:
        parts = urlsplit(config.public_url)
        yield f"{parts.scheme}://{parts.netloc}"
    if not config.s3_bucket or config.s3_downloads != "redirect":
        return
    endpoint = config.s3_public_endpoint_url or config.s3_endpoint_url
    if endpoint is None:
        yield "https://*.amazonaws.com"
        return
    parts = urlsplit(endpoint)
    in_path = config.s3_path_style is not False
    host = parts.netloc if in_path else f"{config.s3_bucket}.{parts.netloc}"
    yield f"{parts.scheme}://{host}"


@functools.cache
def _files() -> Mapping[str, PageFile]:
    """Every file of the page by name, read once; it blocks."""
    found: dict[str, PageFile] = {}
    for path in FOLDER.iterdir():
        if path.suffix in TYPES:
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[path.name] = PageFile(content, TYPES[path.suffix], etag)
    return found
