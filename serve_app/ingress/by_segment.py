"""Routes by the first segment of their path."""

from __future__ import annotations

from collections.abc import Sequence, Set

from starlette.routing import Match, Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send


class BySegment(Mount):
    """Stands in a list of routes for many, whose paths stay as they are. A call is tried on those
    alone that begin with its first segment; for one that begins like none, a run without a prefix,
    none is tried. (Twice at each call: Serve wants the route's name for its metrics.)"""

    def __init__(self, routes: Sequence[Route | WebSocketRoute]) -> None:
        """``routes``: each begins with a segment that is no parameter."""
        super().__init__("", routes=routes)
        self._by_first: dict[str, list[Route | WebSocketRoute]] = {}
        for route in routes:
            self._by_first.setdefault(first_segment(route.path), []).append(route)
        self.firsts: Set[str] = self._by_first.keys()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found: Match = Match.NONE
        within: Scope = {}
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        for route in self._by_first.get(first_segment(path), ()):
            match, child = route.matches(scope)
            if match.value > found.value:
                found, within = match, {**child, "route": route}
            if found is Match.FULL:
                break
        return found, within

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["route"].handle(scope, receive, send)


def first_segment(path: str) -> str:
    return path.removeprefix("/").partition("/")[0]
