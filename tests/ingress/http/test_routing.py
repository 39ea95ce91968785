from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Match, Route, WebSocketRoute

from serve_app.catalog.catalog import load
from serve_app.domain.errors import Misconfigured
from serve_app.ingress.app import create_app
from serve_app.ingress.http.routing import SegmentRouter

with warnings.catch_warnings(action="ignore"):  # from Ray's own use of pydantic
    from ray.serve._private.thirdparty.get_asgi_route_name import (
        extract_route_patterns,
        get_asgi_route_name,
    )

APP = create_app()
BY_SEGMENT, *REST = APP.routes
assert isinstance(BY_SEGMENT, SegmentRouter)
FLAT = Starlette(routes=[*BY_SEGMENT.routes, *REST])
FLAT.router.redirect_slashes = False

SEGMENTS = sorted(
    {
        part
        for route in FLAT.routes
        if isinstance(route, (Route, WebSocketRoute))
        for part in route.path.split("/")
        if "{" not in part
    }
)
PATHS = st.lists(st.sampled_from([*SEGMENTS, "x"]), max_size=5).map(
    lambda parts: f"/{'/'.join(parts)}"
)


def scope_of(method: str, path: str) -> dict[str, Any]:
    if method == "websocket":
        return {"type": "websocket", "path": path}
    return {"type": "http", "method": method, "path": path}


def handler_of(app: Starlette, scope: dict[str, Any]) -> Any:
    """Route that Starlette's own router chooses."""
    partial = None
    for route in app.routes:
        match, child = route.matches(scope)
        if match is Match.FULL:
            refused = "allowed" in child
            return None if refused else (child["endpoint"], child["path_params"])
        if match is Match.PARTIAL and partial is None:
            partial = child["endpoint"], child["path_params"]
    return partial


@given(st.sampled_from(["GET", "POST", "PUT", "DELETE", "QUERY", "BREW", "websocket"]), PATHS)
def test_calls_come_to_where_a_plain_list_of_routes_leads_them(method: str, path: str) -> None:
    """Except where another method is taken: the list would go on to an endpoint of that name."""
    scope = scope_of(method, path)
    handler = handler_of(APP, scope)
    if handler is None and handler_of(FLAT, scope) is not None:
        assert BY_SEGMENT.matches(scope)[1]["allowed"]
        return
    assert handler == handler_of(FLAT, scope)
    assert get_asgi_route_name(APP, scope) == get_asgi_route_name(FLAT, scope)


def test_serve_finds_the_same_patterns_for_its_metrics() -> None:
    assert extract_route_patterns(APP) == extract_route_patterns(FLAT)


@pytest.mark.variants(99)
@pytest.mark.parametrize("route", BY_SEGMENT.routes, ids=lambda route: route.path)
def test_what_is_tried_by_its_first_segment_begins_with_none_that_is_a_parameter(
    route: Any,
) -> None:
    assert "{" not in route.path.split("/")[1]


@pytest.mark.variants(1)
@pytest.mark.parametrize("owner", sorted(BY_SEGMENT.first_segments))
def test_no_endpoint_may_begin_as_our_own_paths_do(owner: str, tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(f'endpoints: {{"{owner}/mine": {{family: probe, schema: open}}}}')
    with pytest.raises(Misconfigured) as refused:
        load(path, demo=False, demo_dir=tmp_path)
    # No id begins with a slash or a dot.
    reason = "reserved for Darkroom's own paths" if owner[:1].isalnum() else "should be owner/name"
    assert f"{owner}/mine" in refused.value.message
    assert reason in refused.value.message
