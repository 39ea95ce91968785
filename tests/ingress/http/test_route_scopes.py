"""Scopes of all calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import pytest
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from serve_app.ingress.app import create_app
from serve_app.ingress.http.openapi import DocumentedRoute
from serve_app.ingress.http.route_scopes import (
    ANY_KEY,
    BY_CALL,
    NO_KEY,
    OF_OWN_RIGHTS,
    ScopedRoute,
    ScopedSocketRoute,
)
from serve_app.resources.declaration import Resource
from serve_app.resources.registry import RESOURCES
from serve_app.tenants.scopes import READ, SINGLE, TENANT_ADMIN

ENDLESS = ("/v1/events",)
"""Streams that do not end by themselves, which suites over all calls leave out.
``tests/ingress/api/test_changes.py`` reads them, and an attack does."""


def every_call(routes: Sequence[BaseRoute]) -> Iterator[tuple[ScopedRoute, str]]:
    for route in routes:
        if isinstance(route, Mount):
            yield from every_call(route.routes)
        elif isinstance(route, Route):
            assert isinstance(route, ScopedRoute), f"{route.path} has no scope"
            yield from ((route, method) for method in sorted(route.methods or ()))


@cache
def scopes(resources: Sequence[Resource[Any]] = RESOURCES) -> Mapping[tuple[str, str], str]:
    """Scope of each call, by method and path."""
    return {
        (method, route.path): route.scope
        for route, method in every_call(create_app(resources).routes)
    }


def test_every_call_has_a_scope() -> None:
    assert set(scopes().values()) <= {NO_KEY, ANY_KEY, BY_CALL, *SINGLE}


def test_a_route_without_a_scope_that_there_is_cannot_be_made() -> None:
    async def handler(request: HttpRequest) -> Response:
        return Response()

    with pytest.raises(ValueError, match="There is no scope reed"):
        ScopedRoute("/x", handler, methods=["GET"], scope="reed")


def test_websockets_have_a_scope_too() -> None:
    app = create_app()
    routes = [inner for route in app.routes for inner in (route, *getattr(route, "routes", ()))]
    sockets = [route for route in routes if isinstance(route, WebSocketRoute)]
    scoped = [socket for socket in sockets if isinstance(socket, ScopedSocketRoute)]
    assert sockets == scoped
    assert {socket.scope for socket in scoped} == {BY_CALL, READ}


def test_calls_about_the_callers_own_rights_are_those_of_tenant_admins() -> None:
    paths = {path for (_, path), scope in scopes().items() if scope == TENANT_ADMIN}
    assert paths >= OF_OWN_RIGHTS


def test_a_call_that_is_documented_as_open_needs_no_key() -> None:
    for route, method in every_call(create_app().routes):
        if isinstance(route, DocumentedRoute) and method in route.operations:
            operation = route.operations[method]
            if route.scope == NO_KEY and operation.key:
                assert operation.errors == (405,), route.path
