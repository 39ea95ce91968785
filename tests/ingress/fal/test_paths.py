from __future__ import annotations

import pytest

from serve_app.ingress.http.paths import RequestPath, RequestResource, app_of, parse, request_urls


@pytest.mark.parametrize(
    ("path", "app", "part"),
    [
        ("fal-ai/flux/requests/ID", "fal-ai/flux", RequestResource.RESULT),
        ("fal-ai/flux/requests/ID/response", "fal-ai/flux", RequestResource.RESULT),
        ("fal-ai/flux/requests/ID/status", "fal-ai/flux", RequestResource.STATUS),
        ("/fal-ai/flux/requests/ID/status/", "fal-ai/flux", RequestResource.STATUS),
        ("fal-ai/flux/requests/ID/status/stream", "fal-ai/flux", RequestResource.STATUS_STREAM),
        ("fal-ai/flux/schnell/requests/ID/cancel", "fal-ai/flux/schnell", RequestResource.CANCEL),
        ("workflows/me/mine/requests/ID", "workflows/me/mine", RequestResource.RESULT),
    ],
)
def test_a_path_names_a_request(path: str, app: str, part: RequestResource) -> None:
    assert parse(path) == RequestPath(app, "ID", part)


@pytest.mark.parametrize(
    "path", ["", "fal-ai/flux", "requests/x", "a/requests/ID", "a/b/requests", "a/b/requests/ID/x"]
)
def test_other_paths_name_none(path: str) -> None:
    assert parse(path) is None


def test_an_app_is_the_owner_and_the_alias() -> None:
    assert app_of("fal-ai/flux/schnell") == "fal-ai/flux"
    assert app_of("workflows/me/mine/deep") == "workflows/me/mine"


def test_a_request_is_found_under_its_app_and_under_the_whole_id() -> None:
    path = parse("fal-ai/flux/requests/ID")
    assert path is not None
    assert path.fits("fal-ai/flux/schnell")
    assert path.fits("fal-ai/flux")
    assert not path.fits("fal-ai/fast-sdxl")


def test_urls_are_below_the_base() -> None:
    assert request_urls("http://x/queue", "fal-ai/flux/dev", "ID") == {
        "response_url": "http://x/queue/fal-ai/flux/requests/ID",
        "status_url": "http://x/queue/fal-ai/flux/requests/ID/status",
        "cancel_url": "http://x/queue/fal-ai/flux/requests/ID/cancel",
    }
