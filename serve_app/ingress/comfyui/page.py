"""ComfyUI's web page, from the folder that the operator names, and what it asks as it starts."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, RedirectResponse, Response
from typing_extensions import TypedDict

from darkroom.media_types import DEFAULT_MEDIA_TYPE, type_of_name
from serve_app.domain.errors import Forbidden, NotFound
from serve_app.ingress.comfyui.endpoint import caller_of, endpoint_of
from serve_app.ingress.comfyui.errors import ERRORS, TAG
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.hosts import comfyui_host, name_and_port
from serve_app.ingress.http.openapi import Answer, Operation, answer
from serve_app.ingress.http.paths import COMFYUI_PREFIX
from serve_app.ingress.services.services import services_of

INDEX = "index.html"
MAX_EXTENSIONS = 1000
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
"""Media types that a browser insists on, whatever the machine's own table says."""

POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'none'",
        "frame-ancestors 'self'",
    )
)
"""Content-Security-Policy of the page. It is a program of others: it reaches no other origin."""

NO_HOST = (
    "ComfyUI's page is a program of others, so it needs a host name of its own here. The operator "
    "sets DARKROOM_COMFYUI_HOST to another name of this Darkroom."
)

NO_PAGE = (
    "ComfyUI's page is not installed here. The operator names its folder in the setting "
    "`comfyui_page` (see Serve ComfyUI workflows in the documentation)."
)


class ComfyUiSystem(TypedDict):
    """What clients read before they start. Nothing is said of the machines."""

    os: str
    comfyui_version: str
    python_version: str
    pytorch_version: str
    embedded_python: bool
    argv: list[str]
    ram_total: int
    ram_free: int


class ComfyUiStats(TypedDict):
    system: ComfyUiSystem
    devices: list[dict[str, str]]


class ComfyUiFeatures(TypedDict):
    """What this server can do."""

    supports_preview_metadata: bool
    max_upload_size: int


class ComfyUiUsers(TypedDict):
    """Settings are kept by the server, and there is one user: the tenant."""

    storage: Literal["server"]
    migrated: bool


async def redirect(request: HttpRequest) -> Response:
    """Answer with the page's address. It needs the slash, because its own are relative."""
    return RedirectResponse(_elsewhere(request) or f"{COMFYUI_PREFIX}/", 307)


async def index(request: HttpRequest) -> Response:
    """``GET /``: the page. Without a key, browsers ask their user for it, at its own host only."""
    address = _elsewhere(request)
    return await _file(request, INDEX) if address is None else RedirectResponse(address, 307)


def _elsewhere(request: HttpRequest) -> str | None:
    """Address of the page at its own host, by the scheme that the browser uses; None: the call came
    to that host. ``Forbidden``: there is none."""
    models, host = services_of(request).config.models, request.headers.get("host", "")
    own, (name, port) = comfyui_host(host, models.comfyui_host), name_and_port(host)
    if models.comfyui_page is None or own == name:
        return None
    if own is None:
        raise Forbidden(NO_HOST)
    return f"//{own}{port}{request.scope.get('root_path', '')}{COMFYUI_PREFIX}/"


async def part(request: HttpRequest) -> Response:
    """A file of the page."""
    return await _file(request, request.path_params["name"])


async def _file(request: HttpRequest, name: str) -> Response:
    await caller_of(request)
    if _elsewhere(request) is not None:
        raise Forbidden(NO_HOST)
    folder = services_of(request).config.models.comfyui_page
    if folder is None:
        raise NotFound(NO_PAGE if name == INDEX else unsupported_message(request))
    location = await asyncio.to_thread(_inside, folder, name)
    if location is None:
        raise NotFound(unsupported_message(request))
    path, kind = location
    headers = {
        # Names of files in `assets` contain a digest of their content.
        "cache-control": "private, max-age=86400" if name.startswith("assets/") else "no-cache",
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
    }
    return FileResponse(path, headers=headers, media_type=kind)


def _inside(folder: Path, name: str) -> tuple[Path, str] | None:
    """A file in a folder, and its media type. None: there is none, or it is elsewhere."""
    try:
        root = folder.resolve()
        path = (root / name).resolve()
        if not path.is_relative_to(root) or not stat.S_ISREG(path.stat().st_mode):
            return None
    except (OSError, ValueError):  # such as a name that is too long
        return None
    kind = TYPES.get(path.suffix) or type_of_name(path.name)
    return path, kind or DEFAULT_MEDIA_TYPE


def unsupported_message(request: HttpRequest) -> str:
    """Message for a call that is not there."""
    return (
        f"{request.method} {request.url.path} is not supported here. For the calls of ComfyUI that "
        "are, see Serve ComfyUI workflows in the documentation."
    )


async def extensions(request: HttpRequest) -> Response:
    """``GET /extensions``: scripts of the page. Those of custom nodes are not served."""
    await caller_of(request)
    folder = services_of(request).config.models.comfyui_page
    return json_reply([] if folder is None else await asyncio.to_thread(_scripts, folder))


def _scripts(folder: Path) -> list[str]:
    def paths() -> Iterator[str]:
        for script in sorted((folder / "extensions").rglob("*.js"))[:MAX_EXTENSIONS]:
            yield f"/{script.relative_to(folder).as_posix()}"

    return [*paths()]


async def stats(request: HttpRequest) -> Response:
    """``GET /system_stats``: the version of the replicas' ComfyUI, if it is known."""
    await caller_of(request)
    known = await services_of(request).comfyui.current()
    body: ComfyUiStats = {
        "system": {
            "os": "posix",
            "comfyui_version": known.version if known and known.version else "darkroom",
            "python_version": "",
            "pytorch_version": "",
            "embedded_python": False,
            "argv": [],
            "ram_total": 0,
            "ram_free": 0,
        },
        "devices": [],
    }
    return json_reply(body)


async def features(request: HttpRequest) -> Response:
    """``GET /features``."""
    await caller_of(request)
    body: ComfyUiFeatures = {
        "supports_preview_metadata": False,
        "max_upload_size": services_of(request).config.limits.max_body_bytes,
    }
    return json_reply(body)


async def users(request: HttpRequest) -> Response:
    """``GET /users``."""
    await caller_of(request)
    body: ComfyUiUsers = {"storage": "server", "migrated": True}
    return json_reply(body)


async def nothing(request: HttpRequest) -> Response:
    """Translations, templates and subgraphs of custom nodes, which are not served."""
    await caller_of(request)
    return json_reply({})


async def free(request: HttpRequest) -> Response:
    """``POST /free``: nothing happens. Replicas keep and evict models by themselves."""
    endpoint_of(request, await caller_of(request))
    return Response()


STATS = Operation(
    "comfyuiSystemStats",
    "Answer that the server is there",
    {200: answer("No figures of the machines.", ComfyUiStats)},
    tag=TAG,
    error_format=ERRORS,
)
FEATURES = replace(
    STATS,
    name="comfyuiFeatures",
    summary="List what this server can do",
    responses={200: answer("Features by name.", ComfyUiFeatures)},
)
USERS = replace(
    STATS,
    name="comfyuiUsers",
    summary="Say where settings are kept",
    responses={200: answer("By the server, for the tenant.", ComfyUiUsers)},
)
EXTENSIONS = replace(
    STATS,
    name="comfyuiExtensions",
    summary="List the scripts of ComfyUI's page",
    responses={200: answer("Their paths.", list[str])},
)
TRANSLATIONS = replace(
    STATS,
    name="comfyuiI18n",
    summary="Answer that custom nodes have no translations",
    responses={200: answer("Empty.", dict[str, Any])},
)
TEMPLATES = replace(
    TRANSLATIONS,
    name="comfyuiWorkflowTemplates",
    summary="Answer that custom nodes have no templates",
)
SUBGRAPHS = replace(
    TRANSLATIONS,
    name="comfyuiGlobalSubgraphs",
    summary="Answer that custom nodes have no subgraphs",
)
FREE = replace(
    STATS,
    name="comfyuiFree",
    summary="Do nothing: replicas evict models by themselves",
    responses={200: Answer("Nothing was done.")},
    errors=(404,),
    body=dict[str, Any],
)
