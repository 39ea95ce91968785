"""Web page at ``/``: static files in the package. The page uses the public API."""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from serve_app.domain.errors import Misconfigured, NotFound
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.hosts import comfyui_host, name_and_port
from serve_app.ingress.http.route_scopes import NO_KEY, ScopedRoute
from serve_app.ingress.page.bundle import (
    VERSIONS,
    bundles_of,
    in_version,
    inline_files,
    late_bundle,
    of_version,
    stripped_styles,
    version_of,
)
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import services_of
from serve_app.settings import Config

FOLDER = Path(__file__).parents[2] / "page"
INDEX = "index.html"
MAIN = "app.js"
SHEETS = ("styles/page.css", "styles/form.css", "styles/results.css", "styles/history.css")
SCRIPT, STYLES = "bundle.js", "bundle.css"
ICON = "icon.svg"
FAL_PLAIN_HTTP = "fal_plain_http.py"
SHARED, SHARED_MAIN = "shared/shared.html", "shared/shared.js"

TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".png": "image/png",
    ".py": "text/x-python; charset=utf-8",
    ".webp": "image/webp",
}
"""Media types of the served files, by suffix. Other files in the folder are not served."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """File of the page as it is served."""

    content: bytes
    compressed: bytes  # by gzip
    media_type: str
    etag: str
    sources: Mapping[str, str] = field(default_factory=dict[str, str])  # see Inlined


async def index(request: HttpRequest) -> Response:
    """Answer with the page itself. It needs no key: it has no data until its user enters one."""
    return await _answer(request, INDEX)


async def share_page(request: HttpRequest) -> Response:
    """Answer with the page of a share link. It asks the link itself for the JSON."""
    return await _answer(request, SHARED)


async def part(request: HttpRequest) -> Response:
    """Answer with a file of the page: script, style sheet or icon."""
    return await _answer(request, request.path_params["name"])


async def icon(request: HttpRequest) -> Response:
    """Answer with the icon, which browsers request for every page without one, such as JSON."""
    return await _answer(request, ICON)


class BrowserRoute(ScopedRoute):
    """Route for browsers, at an address that answers programs with JSON. It has to come before the
    other one."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        accepted = Headers(raw=scope.get("headers", [])).get("accept", "")
        return super().matches(scope) if "text/html" in accepted else (Match.NONE, {})


ROUTES = [
    BrowserRoute("/v1/shared/{token}", share_page, methods=["GET", "HEAD"], scope=NO_KEY),
    ScopedRoute("/", index, methods=["GET", "HEAD"], scope=NO_KEY),
    ScopedRoute("/favicon.ico", icon, methods=["GET", "HEAD"], scope=NO_KEY),
    ScopedRoute("/page/{name:path}", part, methods=["GET", "HEAD"], scope=NO_KEY),
]


async def _answer(request: HttpRequest, name: str) -> Response:
    context_of(request).route = "page"
    host, setting = request.headers.get("host", ""), services_of(request).config.models.comfyui_host
    if name_and_port(host)[0] == comfyui_host(host, setting):
        raise NotFound("This host has ComfyUI's page and no other: see /comfyui/.")
    file = (await in_cpu_thread(_files)).get(name)
    if file is None:
        if name.startswith(VERSIONS):
            raise NotFound("This file is of another version of Darkroom. Reload the page.")
        raise NotFound(f"The page has no {name[:100]}.")
    headers = {
        "content-type": file.media_type,
        "etag": file.etag,
        # Revalidated each time, and answered with 304. Bundles have their version in their address:
        # a page that stays open, or meets another version of Darkroom, never runs with its files.
        "cache-control": "no-cache",
        "content-security-policy": policy(services_of(request).config, file.sources),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "vary": "accept, accept-encoding",
    }
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        return Response(file.compressed, headers=headers)
    return Response(file.content, headers=headers)


def policy(config: Config, sources: Mapping[str, str]) -> str:
    """Content-Security-Policy of the page.

    It allows scripts and calls of this origin only, inline scripts and styles only if ``sources``
    has them, and no text that becomes markup. Artifacts may come from other origins: see
    ``_origins``.
    """
    media = " ".join(("'self' data: blob:", *_origins(config)))
    rules = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": media,
        "media-src": media,
        "manifest-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "notifications",  # names one script: see interface/notifications.js
    }
    allowed = {name: f"{value} {sources.get(name, '')}".strip() for name, value in rules.items()}
    return "; ".join(f"{name} {value}" for name, value in allowed.items())


def _origins(config: Config) -> Iterator[str]:
    """Origins of artifacts, apart from the page's own.

    They are ``public_url``, which may differ from the host of the page, and the store to which
    downloads are redirected.
    """
    if config.server.public_url:
        parts = urlsplit(config.server.public_url)
        yield f"{parts.scheme}://{parts.netloc}"
    if not config.storage.s3_bucket or config.storage.s3_downloads != "redirect":
        return
    endpoint = config.storage.s3_public_endpoint_url or config.storage.s3_endpoint_url
    if endpoint is None:
        yield "https://*.amazonaws.com"
        return
    parts = urlsplit(endpoint)
    in_path = config.storage.s3_path_style is not False
    host = parts.netloc if in_path else f"{config.storage.s3_bucket}.{parts.netloc}"
    yield f"{parts.scheme}://{host}"


@functools.cache
def _files() -> Mapping[str, PageFile]:
    """All files of the page by path, read once, with the bundles. Reading blocks."""
    read = {
        path.relative_to(FOLDER).as_posix(): path.read_bytes()
        for path in FOLDER.rglob("*")
        if path.suffix in TYPES
    }
    read[FAL_PLAIN_HTTP] = _module(FAL_PLAIN_HTTP)
    scripts = {name: body.decode() for name, body in read.items() if name.endswith(".js")}
    bundles = {
        **bundles_of(scripts, MAIN, SCRIPT),
        **bundles_of(scripts, SHARED_MAIN, late_bundle(SHARED_MAIN)),
    }
    bundled = {name: text.encode() for name, text in bundles.items()}
    version = version_of(read | bundled)
    own = bundled | {name: body for name, body in read.items() if name.endswith(".css")}
    read[STYLES] = stripped_styles("\n".join(read[sheet].decode() for sheet in SHEETS)).encode()
    versioned = {in_version(name, version): content for name, content in own.items()}
    files = {name: _file(name, content) for name, content in (read | versioned).items()}
    parts = {name: file.content.decode() for name, file in files.items() if _is_text(name)}
    for name in (INDEX, SHARED):
        page = inline_files(of_version(parts[name], version), parts)
        files[name] = replace(_file(name, page.html.encode()), sources=page.sources)
    return files


def _module(name: str) -> bytes:
    """Source of a module that programs elsewhere copy."""
    spec = find_spec(name.removesuffix(".py"))
    if spec is None or spec.origin is None:
        raise Misconfigured(f"{name} is not installed. Install Darkroom again.")
    return Path(spec.origin).read_bytes()


def _is_text(name: str) -> bool:
    return not TYPES[f".{name.rpartition('.')[2]}"].startswith("image/")


def _file(name: str, content: bytes) -> PageFile:
    etag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'  # weak: the same for both encodings
    compressed = gzip.compress(content, mtime=0)
    return PageFile(content, compressed, TYPES[f".{name.rpartition('.')[2]}"], etag)
