"""Paths of ComfyUI's protocol, under ``/comfyui``."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from typing_extensions import TypedDict

from serve_app.domain.errors import NotFound
from serve_app.ingress.comfyui import files, prompts, websocket
from serve_app.ingress.comfyui.endpoint import caller_of
from serve_app.ingress.comfyui.errors import ERRORS, TAG, refused
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import Operation, answer
from serve_app.ingress.http.paths import COMFYUI_PREFIX
from serve_app.ingress.http.routing import Handler, translated

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


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


async def stats(request: HttpRequest) -> Response:
    await caller_of(request)
    body: ComfyUiStats = {
        "system": {
            "os": "posix",
            "comfyui_version": "darkroom",
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


async def unknown(request: HttpRequest) -> Response:
    raise NotFound(
        f"{request.method} {request.url.path} is not supported here. Of ComfyUI's API, only "
        "prompt, queue, interrupt, history, view, upload/image, system_stats and ws are, under "
        "/comfyui. Nodes (object_info) are known to the ComfyUI of the operator only."
    )


STATS = Operation(
    "comfyuiSystemStats",
    "Answer that the server is there",
    {200: answer("No figures of the machines.", ComfyUiStats)},
    tag=TAG,
    error_format=ERRORS,
)


def _route(method: str, path: str, handler: Handler, label: str, call: Operation) -> Route:
    return translated(
        COMFYUI_PREFIX + path,
        handler,
        method,
        label=f"comfyui.{label}",
        refusal=refused,
        operations={method: call},
    )


ROUTES: list[Route | WebSocketRoute] = [
    _route("POST", "/prompt", prompts.created, "prompt.create", prompts.CREATE),
    _route("GET", "/prompt", prompts.counted, "prompt", prompts.COUNT),
    _route("GET", "/queue", prompts.listed, "queue", prompts.LIST),
    _route("POST", "/queue", prompts.changed, "queue.change", prompts.CHANGE),
    _route("POST", "/interrupt", prompts.interrupted, "interrupt", prompts.INTERRUPT),
    _route("GET", "/history", prompts.ended, "history", prompts.HISTORY),
    _route("GET", "/history/{prompt_id}", prompts.shown, "history.one", prompts.SHOW),
    _route("GET", "/view", files.viewed, "view", files.VIEW),
    _route("POST", "/upload/image", files.uploaded, "upload", files.UPLOAD),
    _route("GET", "/system_stats", stats, "stats", STATS),
    WebSocketRoute(f"{COMFYUI_PREFIX}/ws", websocket.connected),
    translated("/comfyui/{rest:path}", unknown, *METHODS, label="comfyui.other", refusal=refused),
]
