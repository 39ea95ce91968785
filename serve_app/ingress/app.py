"""The HTTP application: its routes, and what all its responses have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.domain.errors import DarkroomError
from serve_app.ingress.api import routes as api
from serve_app.ingress.comfyui import routes as comfyui
from serve_app.ingress.fal import endpoint_calls
from serve_app.ingress.fal import routes as fal
from serve_app.ingress.fal.rewriting import PathRewriting
from serve_app.ingress.http.context import SCOPE_KEY, RequestContext
from serve_app.ingress.http.errors import http_answer, json_reply
from serve_app.ingress.http.routing import SegmentRouter
from serve_app.ingress.mcp import routes as mcp
from serve_app.ingress.middleware import RequestMiddleware
from serve_app.ingress.openai import routes as openai
from serve_app.ingress.openapi import routes as openapi
from serve_app.ingress.openapi.document import ApiDocument
from serve_app.ingress.page import routes as page
from serve_app.ingress.realtime import websocket
from serve_app.ingress.replicate import routes as replicate
from serve_app.ingress.resources.kinds import kind_routes
from serve_app.ingress.resources.plain import plain_routes
from serve_app.ingress.services.services import Services
from serve_app.resources.declaration import Resource
from serve_app.resources.registry import RESOURCES


def create_app(resources: Sequence[Resource[Any]] = RESOURCES) -> Starlette:
    """The application without its collaborators: set ``app.state.services`` before it is called."""
    prefixed = SegmentRouter(
        [
            *fal.ROUTES,
            *openapi.ROUTES,
            *page.ROUTES,  # before the API: browsers get a page where programs get JSON
            *plain_routes(resources),
            *kind_routes(resources),
            *api.ROUTES,
            *openai.ROUTES,
            *replicate.ROUTES,
            *comfyui.ROUTES,
            *mcp.ROUTES,
            websocket.PREFIXED,
        ]
    )
    app = _Application(
        routes=[prefixed, fal.UNPREFIXED, websocket.UNPREFIXED],
        middleware=[
            Middleware(RequestMiddleware),
            Middleware(PathRewriting, own=prefixed.first_segments),
        ],
    )
    app.router.redirect_slashes = False
    app.state.document = ApiDocument(prefixed.routes, endpoint_calls)
    return app


class _Application(Starlette):
    """Starlette without its own handling of errors: three wrappers around each call, for what the
    middleware here does already."""

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = Refusals(self.router)
        for layer, args, settings in reversed(self.user_middleware):
            app = layer(app, *args, **settings)
        return app


class Refusals:
    """ASGI middleware that answers Darkroom's errors in the protocol of the call, and Starlette's
    own, such as a path that does not allow the method, as JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except (DarkroomError, HTTPException) as error:
            context: RequestContext = scope[SCOPE_KEY]
            if context.status:
                raise  # the response has begun
            answer = _answer(scope, context, error)
            await answer(scope, receive, send)


def _answer(
    scope: Scope, context: RequestContext, error: DarkroomError | HTTPException
) -> Response:
    if isinstance(error, HTTPException):
        body = {"detail": error.detail, "message": error.detail}
        return json_reply(body, error.status_code, error.headers)
    context.error, context.transient = error.code, http_answer(error).transient
    answer = context.render_error(error)
    services: Services = scope["app"].state.services
    services.count_refusal(answer.status_code, error)
    return answer
