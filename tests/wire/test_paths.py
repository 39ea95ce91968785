"""Arbitrary paths below the prefixes that accept any path."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.served import serve

pytestmark = pytest.mark.wire

PREFIXES = ("/queue", "/run", "/rest", "/cdn", "/files", "/v1", "")
KNOWN = (
    *("test", "probe", "deep", "path", "fal-ai", "flux", "schnell", "workflows", "requests"),
    *("status", "stream", "response", "cancel", "files", "upload", "multipart", "complete"),
    *("storage", "auth", "token", "tokens", "keys", "endpoints", "resume", "models", "uploads"),
    *("0190a0f0-0000-7000-8000-000000000000", "9" * 5000, ""),
    *("%00", "a%00b", "%2F", "%2e%2e", "..", ".", "%ff%fe", "%ed%a0%80", "%", "a%20b", "*", ";"),
)
segments = st.sampled_from(KNOWN) | st.text(max_size=8).map(
    lambda segment: quote(segment, errors="replace")
)
paths = st.builds(
    lambda prefix, rest: "/".join((prefix, *rest)),
    st.sampled_from(PREFIXES),
    st.lists(segments, min_size=1, max_size=6),
)
methods = st.sampled_from(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"))


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serve() as address:
        headers = {"Authorization": f"Key {address.key}"}
        with httpx.Client(base_url=address.url, headers=headers, timeout=20.0) as client:
            yield client


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(methods, paths)
def test_every_path_is_answered_or_refused_with_a_reason(
    client: httpx.Client, method: str, path: str
) -> None:
    url = client.base_url.copy_with(raw_path=path.encode("ascii"))
    answer = client.request(method, url, json={} if method in ("POST", "PUT", "PATCH") else None)
    assert answer.status_code < 500
    assert "x-fal-request-id" in answer.headers
    if method != "HEAD" and answer.is_client_error:
        assert answer.json()["detail"]


@pytest.mark.parametrize("character", ["%00", "%0A"])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/v1/keys/{}", 404),
        ("PUT", "/v1/endpoints/{}/resume", 404),
        ("GET", "/v1/requests/{}", 404),
        ("DELETE", "/v1/uploads/{}", 404),
        ("GET", "/files/{}", 404),
        ("PUT", "/files/{}", 403),
        ("POST", "/queue/{}", 404),
        ("GET", "/queue/test/probe/requests/{}/status", 404),
        ("GET", "/rest/{}", 400),
    ],
)
def test_there_is_nothing_with_a_null_or_a_line_break_in_its_name(
    client: httpx.Client, method: str, path: str, status: int, character: str
) -> None:
    call = {"json": {}} if method == "POST" else {}
    answer = client.request(method, path.format(f"a{character}b"), **call)
    assert answer.status_code == status
    assert answer.json()["message"]


def test_openais_clients_get_openais_words(client: httpx.Client) -> None:
    answer = client.get("/openai/v1/models/a%00b")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_nor_is_there_in_a_path_that_came_for_fals_own_host(client: httpx.Client) -> None:
    target = "https://queue.fal.run/test/probe/requests/a%00b/status"
    answer = client.get("/fal/proxy", headers={"x-fal-target-url": target})
    assert (answer.status_code, answer.json()["status"]) == (404, "NOT_FOUND")
