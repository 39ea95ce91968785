"""Paths of ComfyUI's protocol, under ``/comfyui``, each of them also under ``/comfyui/api``."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from serve_app.domain.errors import NotFound
from serve_app.ingress.comfyui import files, jobs, nodes, page, prompts, userdata, websocket
from serve_app.ingress.comfyui.errors import error_response
from serve_app.ingress.comfyui.v2 import assets
from serve_app.ingress.comfyui.v2 import errors as v2_errors
from serve_app.ingress.comfyui.v2 import events as v2_events
from serve_app.ingress.comfyui.v2 import jobs as v2_jobs
from serve_app.ingress.http.openapi import DocumentedRoute
from serve_app.ingress.http.paths import COMFYUI_PREFIX
from serve_app.ingress.http.route_scopes import ANY_KEY, NO_KEY, ScopedRoute, ScopedSocketRoute
from serve_app.ingress.http.routing import Handler, ProtocolRoutes, build_route
from serve_app.tenants.scopes import CANCEL, FILES, READ, SUBMIT

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
API = f"{COMFYUI_PREFIX}/api/"


class ComfyUiRoute(DocumentedRoute):
    """Route that is also found under ``api/``, where ComfyUI's page calls it."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(_without_api(scope))


class ComfyUiSocketRoute(ScopedSocketRoute):
    """The same for a WebSocket."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(_without_api(scope))


def _without_api(scope: Scope) -> Scope:
    path: str = scope["path"]
    if not path.startswith(API):
        return scope
    return {**scope, "path": f"{COMFYUI_PREFIX}/{path.removeprefix(API)}"}


async def unknown(request: HttpRequest) -> Response:
    raise NotFound(page.unsupported_message(request))


_route = ProtocolRoutes("comfyui", COMFYUI_PREFIX, error_response, ComfyUiRoute).route
_v2 = ProtocolRoutes(
    "comfyui.v2", f"{COMFYUI_PREFIX}/v2", v2_errors.error_response, ComfyUiRoute
).route


def _plain(path: str, handler: Handler, *methods: str, label: str, scope: str) -> ScopedRoute:
    return build_route(
        COMFYUI_PREFIX + path,
        handler,
        *methods,
        label=f"comfyui.{label}",
        refusal=error_response,
        scope=scope,
    )


FILE, MOVE = "/userdata/{file:path}", "/userdata/{file:path}/move/{dest:path}"

V2 = [
    _v2("POST", "/jobs", v2_jobs.create, "job.create", v2_jobs.CREATE, SUBMIT),
    _v2("GET", "/jobs", v2_jobs.list_jobs, "jobs", v2_jobs.LIST, READ),
    _v2("GET", "/jobs/{job_id}", v2_jobs.show, "job", v2_jobs.SHOW, READ),
    _v2("GET", "/jobs/{job_id}/events", v2_events.follow, "events", v2_events.FOLLOW, READ),
    _v2("GET", "/jobs/{job_id}/workflow", v2_jobs.workflow, "workflow", v2_jobs.WORKFLOW, READ),
    _v2("POST", "/jobs/{job_id}/cancel", v2_jobs.cancel, "job.cancel", v2_jobs.CANCEL, CANCEL),
    _v2("POST", "/assets", assets.upload, "asset.upload", assets.UPLOAD, FILES),
    _v2("GET", "/assets/{asset_id}", assets.show, "asset", assets.SHOW, READ),
    _v2("GET", "/assets/{asset_id}/content", assets.content, "content", assets.CONTENT, READ),
    _v2("DELETE", "/assets/{asset_id}", assets.delete, "asset.delete", assets.DELETE, FILES),
]
"""Comfy API v2, which ComfyUI's own packages for Python and JavaScript speak."""

PAGE = [
    _plain("", page.redirect, "GET", label="page", scope=NO_KEY),
    _plain("/", page.index, "GET", label="page", scope=ANY_KEY),  # browsers then ask for the key
    _plain("/{name:path}", page.part, "GET", label="page", scope=ANY_KEY),
]
"""Routes for browsers."""

ROUTES: list[ScopedRoute | ScopedSocketRoute] = [
    _route("POST", "/prompt", prompts.create, "prompt.create", prompts.CREATE, SUBMIT),
    _route("GET", "/prompt", prompts.count, "prompt", prompts.COUNT, READ),
    _route("GET", "/queue", prompts.list_queue, "queue", prompts.LIST, READ),
    _route("POST", "/queue", prompts.cancel_queued, "queue.change", prompts.CHANGE, CANCEL),
    _route("POST", "/interrupt", prompts.interrupt, "interrupt", prompts.INTERRUPT, CANCEL),
    _route("GET", "/history", prompts.list_history, "history", prompts.HISTORY, READ),
    _route("POST", "/history", prompts.delete_history, "history.forget", prompts.FORGET, CANCEL),
    _route("GET", "/history/{prompt_id}", prompts.show, "history.one", prompts.SHOW, READ),
    _route("GET", "/jobs", jobs.list_jobs, "jobs", jobs.LIST, READ),
    _route(
        "POST", "/jobs/cancel", jobs.several_cancelled, "jobs.cancel", jobs.CANCEL_SEVERAL, CANCEL
    ),
    _route("GET", "/jobs/{job_id}", jobs.show, "job", jobs.SHOW, READ),
    _route("POST", "/jobs/{job_id}/cancel", jobs.cancel, "job.cancel", jobs.CANCEL, CANCEL),
    _route("GET", "/view", files.view, "view", files.VIEW, READ),
    _route("POST", "/upload/image", files.upload_image, "upload", files.UPLOAD, FILES),
    _route("POST", "/upload/mask", files.upload_mask, "upload.mask", files.UPLOAD_MASK, FILES),
    _route("GET", "/object_info", nodes.object_info, "nodes", nodes.INFO, ANY_KEY),
    _route("GET", "/object_info/{node_class}", nodes.one_class, "node", nodes.INFO_OF_ONE, ANY_KEY),
    _route("GET", "/models", nodes.kinds, "models", nodes.KINDS, ANY_KEY),
    _route("GET", "/models/{folder}", nodes.models, "models.folder", nodes.MODELS, ANY_KEY),
    _route(
        "GET", "/experiment/models", nodes.kinds_of_page, "models", nodes.KINDS_OF_PAGE, ANY_KEY
    ),
    _route(
        "GET",
        "/experiment/models/{folder}",
        nodes.models_of_page,
        "models.folder",
        nodes.MODELS_OF_PAGE,
        ANY_KEY,
    ),
    _route("GET", "/embeddings", nodes.embeddings, "embeddings", nodes.EMBEDDINGS, ANY_KEY),
    _route("GET", "/system_stats", page.stats, "stats", page.STATS, ANY_KEY),
    _route("GET", "/features", page.features, "features", page.FEATURES, ANY_KEY),
    _route("GET", "/users", page.users, "users", page.USERS, ANY_KEY),
    _route("GET", "/extensions", page.extensions, "extensions", page.EXTENSIONS, ANY_KEY),
    _route("GET", "/i18n", page.nothing, "i18n", page.TRANSLATIONS, ANY_KEY),
    _route("GET", "/workflow_templates", page.nothing, "templates", page.TEMPLATES, ANY_KEY),
    _route("GET", "/global_subgraphs", page.nothing, "subgraphs", page.SUBGRAPHS, ANY_KEY),
    _route("POST", "/free", page.free, "free", page.FREE, ANY_KEY),
    _route("GET", "/settings", userdata.settings, "settings", userdata.READ_SETTINGS, FILES),
    _route(
        "POST", "/settings", userdata.set_settings, "settings.set", userdata.WRITE_SETTINGS, FILES
    ),
    _route("GET", "/settings/{setting}", userdata.setting, "setting", userdata.READ_SETTING, FILES),
    _route(
        "POST", "/settings/{setting}", userdata.set_setting, "set", userdata.WRITE_SETTING, FILES
    ),
    _route("GET", "/userdata", userdata.list_files, "userdata", userdata.LIST, FILES),
    _route(
        "GET",
        "/v2/userdata",
        userdata.listed_with_folders,
        "userdata",
        userdata.LIST_WITH_FOLDERS,
        FILES,
    ),
    _route("POST", MOVE, userdata.move, "userdata.move", userdata.MOVE, FILES),
    _route("GET", FILE, userdata.read, "userdata.read", userdata.READ, FILES),
    _route("POST", FILE, userdata.write, "userdata.write", userdata.WRITE, FILES),
    _route("DELETE", FILE, userdata.remove, "userdata.delete", userdata.REMOVE, FILES),
    *V2,
    ComfyUiSocketRoute(f"{COMFYUI_PREFIX}/ws", websocket.serve, scope=READ),
    *PAGE,
    _plain("/{rest:path}", unknown, *METHODS, label="other", scope=NO_KEY),
]
