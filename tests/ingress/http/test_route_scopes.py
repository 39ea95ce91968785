"""Table of the scopes of all calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from serve_app.ingress.app import create_app
from serve_app.ingress.http.openapi import DocumentedRoute
from serve_app.ingress.http.paths import COMFYUI_PREFIX
from serve_app.ingress.http.route_scopes import (
    ANY_KEY,
    BY_CALL,
    FOR_ALL_METHODS,
    NO_KEY,
    SCOPES,
    scope_of,
)
from serve_app.resources.declaration import Resource
from serve_app.resources.registry import RESOURCES
from serve_app.tenants.scopes import READ, SINGLE


def every_call(routes: Sequence[BaseRoute]) -> Iterator[tuple[Route, str]]:
    for route in routes:
        if isinstance(route, Mount):
            yield from every_call(route.routes)
        elif isinstance(route, Route):
            yield from ((route, method) for method in sorted(route.methods or ()))


@cache
def scopes(resources: Sequence[Resource[Any]] = RESOURCES) -> Mapping[tuple[str, str], str]:
    """Scope of each call, by method and path."""
    return {
        (method, route.path): scope_of(route, method)
        for route, method in every_call(create_app(resources).routes)
    }


def test_every_call_has_a_scope() -> None:
    for route, method in every_call(create_app().routes):
        assert scope_of(route, method) in {NO_KEY, ANY_KEY, BY_CALL, *SINGLE}, route.path


def test_the_table_has_no_call_that_is_gone() -> None:
    calls = {(method, route.path) for route, method in every_call(create_app().routes)}
    calls.add(("GET", f"{COMFYUI_PREFIX}/ws"))  # a WebSocket
    listed = {(method, path) for method, paths in SCOPES.items() for path in paths}
    assert listed <= calls
    assert FOR_ALL_METHODS.keys() <= {path for _, path in calls}


def test_websockets_have_a_scope_too() -> None:
    app = create_app()
    routes = [each for route in app.routes for each in (route, *getattr(route, "routes", ()))]
    sockets = [each for each in routes if isinstance(each, WebSocketRoute)]
    assert sockets
    assert {scope_of(each, "GET") for each in sockets} == {BY_CALL, READ}


def test_a_call_that_is_documented_as_open_needs_no_key() -> None:
    for route, method in every_call(create_app().routes):
        if isinstance(route, DocumentedRoute) and method in route.operations:
            operation, scope = route.operations[method], scope_of(route, method)
            if scope == NO_KEY and operation.key:
                assert operation.errors == (405,), route.path
