"""Routing by the first segment of a path, and routes that answer errors in a protocol's format."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Match, Mount
from starlette.types import Receive, Scope, Send

from serve_app.domain.errors import InvalidInput, MethodNotAllowed
from serve_app.ingress.http.context import SCOPE_KEY, context_of
from serve_app.ingress.http.openapi import DocumentedRoute, Operation
from serve_app.ingress.http.route_scopes import Refusal, ScopedRoute, ScopedSocketRoute


class SegmentRouter(Mount):
    """One entry in a list of routes that stands for many routes, whose paths stay unchanged.

    A call is matched only against the routes with its first segment. A path whose first segment
    has no routes (a run without prefix) is not matched here.
    """

    def __init__(self, routes: Sequence[ScopedRoute | ScopedSocketRoute]) -> None:
        """``routes``: the first segment of each path must not be a parameter."""
        super().__init__("", routes=routes)
        self._by_first: dict[str, list[ScopedRoute | ScopedSocketRoute]] = {}
        for route in routes:
            self._by_first.setdefault(first_segment(route.path), []).append(route)
        self.first_segments: Set[str] = self._by_first.keys()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match also a documented path that does not take the method, or the call would run as an
        endpoint of that name and answer that there is none."""
        allowed: set[str] = set()
        partial: Scope = {}
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        for route in self._by_first.get(first_segment(path), ()):
            match, child = route.matches(scope)
            if match is Match.FULL and not (allowed and _takes_the_rest(route)):
                return match, {**child, "route": route}
            if match is Match.PARTIAL:
                partial = partial or {**child, "route": route}
                allowed |= (isinstance(route, DocumentedRoute) and route.methods) or set()
        if allowed:
            return Match.FULL, {**partial, "allowed": allowed}
        return (Match.PARTIAL, partial) if partial else (Match.NONE, partial)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        route: ScopedRoute | ScopedSocketRoute = scope["route"]
        if "allowed" in scope:
            if isinstance(route, ScopedRoute) and route.refusal is not None:
                scope[SCOPE_KEY].render_error = route.refusal
            raise MethodNotAllowed.of_call(scope["method"], scope["allowed"])
        await route.handle(scope, receive, send)


def _takes_the_rest(route: ScopedRoute | ScopedSocketRoute) -> bool:
    """Return True for a route that answers for the paths that no other route has."""
    return not isinstance(route, DocumentedRoute) and route.path.endswith(":path}")


def first_segment(path: str) -> str:
    return path.removeprefix("/").partition("/")[0]


# Routes whose errors have the protocol's own format and names of fields.

Handler = Callable[[HttpRequest], Awaitable[Response]]


def build_route(
    path: str,
    handler: Handler,
    *methods: str,
    label: str,
    refusal: Refusal,
    scope: str,
    operations: Mapping[str, Operation] | None = None,
    kind: type[DocumentedRoute] = DocumentedRoute,
) -> ScopedRoute:
    """Build a route whose errors, expected or not, are rendered by ``refusal``.

    ``label``: name of the route in metrics. ``operations``: descriptions of the calls by method;
    None for a route that only answers "not found". ``kind``: of a route that has some.
    """

    async def answer(request: HttpRequest) -> Response:
        context = context_of(request)
        context.route, context.render_error = label, refusal
        return await handler(request)

    if operations is None:
        route = ScopedRoute(path, answer, methods=methods, scope=scope)
    else:
        route = kind(path, answer, operations, scope, methods)
    route.refusal = refusal
    return route


@dataclass(frozen=True, slots=True)
class ProtocolRoutes:
    """Routes of a protocol, whose paths begin with ``prefix`` and whose labels with ``name``."""

    name: str
    prefix: str
    refusal: Refusal
    kind: type[DocumentedRoute] = DocumentedRoute

    def route(
        self,
        method: str,
        path: str,
        handler: Handler,
        label: str,
        call: Operation | None,
        scope: str,
    ) -> ScopedRoute:
        """Build the route of one call. None as its description: it has none."""
        return build_route(
            self.prefix + path,
            handler,
            method,
            label=f"{self.name}.{label}",
            refusal=self.refusal,
            scope=scope,
            operations={method: call} if call else None,
            kind=self.kind,
        )


def prefix_locations(name: str, error: InvalidInput) -> InvalidInput:
    """``error`` with its locations below the field ``name`` of a larger body."""
    problems = tuple(
        replace(problem, loc=("body", name, *problem.loc[1:]))
        if problem.loc[:1] == ("body",)
        else problem
        for problem in error.problems
    )
    return InvalidInput(error.message, problems)


def rename_locations(error: InvalidInput, names: Mapping[str, str]) -> InvalidInput:
    """``error`` with the names of fields that the client used.

    ``names``: field of the input → the client's name for it.
    """
    if not error.problems:
        return error
    problems = tuple(
        replace(problem, loc=_rename_location(problem.loc, names)) for problem in error.problems
    )
    return InvalidInput.of_problems(problems)


def _rename_location(loc: tuple[str | int, ...], names: Mapping[str, str]) -> tuple[str | int, ...]:
    if len(loc) < 2 or loc[0] != "body":
        return loc
    name = names.get(str(loc[1]))
    return loc if name is None else ("body", name, *loc[2:])
