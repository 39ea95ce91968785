"""Calls made for fal's own hosts reach the paths that serve them here."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.ingress.http.hosts import NAMES, is_fal, service_of
from tests.ingress.house import ORIGIN, House, build_house

PROBE = "/test/probe"
QUEUE = "https://queue.fal.run"


def to(target: str) -> dict[str, str]:
    return {"x-fal-target-url": target}


def host(name: str) -> dict[str, str]:
    return {"host": name}


@pytest.mark.parametrize("path", ["/fal/proxy", "/fal/proxy/", "/fal/proxy/a?b=c"])
async def test_a_target_url_says_what_is_meant_below_the_proxy_path(
    client: httpx.AsyncClient, path: str
) -> None:
    ran = await client.post(path, json={"echo": 1}, headers=to("https://fal.run/test/probe"))
    assert ran.json()["echo"] == 1
    headers = to(f"{QUEUE}/test/probe?fal_max_queue_length=x")
    refused = await client.post(path, json={"echo": 1}, headers=headers)
    assert refused.status_code == 422, "the query is the target's"
    submitted = await client.post(path, json={"echo": 2}, headers=to(f"{QUEUE}/test/probe"))
    queued = submitted.json()
    assert queued["response_url"].startswith(f"{ORIGIN}/queue/test/probe/requests/")
    target = f"{QUEUE}/test/probe/requests/{queued['request_id']}"
    assert (await client.get(path, headers=to(f"{target}/status"))).status_code in (200, 202)
    assert (await client.get(queued["status_url"])).status_code in (200, 202)


async def test_a_target_with_escapes_and_a_port_is_read_as_a_url(client: httpx.AsyncClient) -> None:
    ran = await client.post(
        "/fal/proxy", json={"echo": 1}, headers=to("https://fal.run:443/test/pr%6Fbe")
    )
    assert ran.json()["echo"] == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        to(""),
        to("https://example.org/test/probe"),
        to("https://evilfal.run/test/probe"),
        to("https://fal.run.example.org/test/probe"),
        to("https://fal.run:8443/test/probe"),
        to("https://fal.run@example.org/test/probe"),
        to("http://fal.run/test/probe"),
        to("https://[fal.run/test/probe"),
        to("https://fal.run:port/test/probe"),
        to("nonsense"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_the_proxy_route_refuses_what_names_none_of_fal_s_hosts(
    client: httpx.AsyncClient, method: str, headers: dict[str, str]
) -> None:
    answer = await client.request(method, "/fal/proxy", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["detail"] == "Invalid request"
    assert "x-fal-target-url" in answer.json()["message"]


@pytest.mark.parametrize("target", ["https://example.org/test/other", "https://fal.run/readyz"])
async def test_a_target_changes_nothing_on_other_paths(
    client: httpx.AsyncClient, target: str
) -> None:
    answer = await client.post(PROBE, json={"echo": 3}, headers=to(target))
    assert answer.json()["echo"] == 3
    for path in ("/healthz", "/v1/models", "/fal/proxies", "/no/such"):
        plain = await client.get(path)
        aimed = await client.get(path, headers=to(target))
        assert (aimed.status_code, aimed.content) == (plain.status_code, plain.content)


async def test_a_cache_keeps_the_answers_for_several_targets_apart(
    client: httpx.AsyncClient,
) -> None:
    response = await client.post(PROBE, json={"artifacts": 1}, headers=host("fal.run"))
    path = httpx.URL(response.json()["images"][0]["url"]).path
    for headers in ({}, to(f"https://v3.fal.media{path}")):
        answer = await client.get("/fal/proxy", headers=headers)
        assert answer.headers["vary"] == "x-fal-target-url"
    assert "vary" not in (await client.get(path)).headers


async def test_a_key_is_needed_as_everywhere(house: House) -> None:
    async with house.client("nobody:x") as client:
        answer = await client.post("/fal/proxy", json={}, headers=to("https://fal.run/test/probe"))
    assert answer.status_code == 401


@pytest.mark.parametrize("name", ["queue.fal.run", "queue.falrun.com", "QUEUE.FAL.RUN"])
async def test_the_queue_s_host_is_the_queue(client: httpx.AsyncClient, name: str) -> None:
    queued = (await client.post(PROBE, json={"echo": 4}, headers=host(name))).json()
    assert queued["status"] == "IN_QUEUE"
    base = f"https://{name}/test/probe/requests/{queued['request_id']}"
    assert queued["response_url"] == base
    path = base.removeprefix(f"https://{name}")
    status = (await client.get(f"{path}/status", headers=host(name))).json()
    assert status["cancel_url"] == f"{base}/cancel"


async def test_fal_s_other_hosts_run(client: httpx.AsyncClient) -> None:
    for name in ("fal.run", "falrun.com", "fal.run:443"):
        answer = await client.post(PROBE, json={"echo": 5}, headers=host(name))
        assert answer.json()["echo"] == 5


@pytest.mark.parametrize(
    ("name", "path", "route"),
    [
        ("rest.fal.ai", "/storage/upload/initiate", "/rest/storage/upload/initiate"),
        ("rest.fal.ai", "/tokens/", "/rest/tokens/"),
        ("v3.fal.media", "/files/upload", "/cdn/files/upload"),
        ("v3.fal.media", "/files/upload/multipart", "/cdn/files/upload/multipart"),
        ("fal.media", "/x", "/cdn/x"),
    ],
)
async def test_uploads_go_where_they_go_below_a_prefix(
    client: httpx.AsyncClient, name: str, path: str, route: str
) -> None:
    below = await client.post(route, json={})
    by_host = await client.post(path, json={}, headers=host(name))
    by_target = await client.post("/fal/proxy", json={}, headers=to(f"https://{name}{path}"))
    assert by_host.status_code == by_target.status_code == below.status_code
    # The URLs are new each time, and have the host that was called.
    shown = [sorted(answer.json()) for answer in (by_host, by_target, below)]
    assert shown[0] == shown[1] == shown[2]
    assert by_host.json() != (await client.post("/no/such", json={})).json()


async def test_files_are_found_under_every_host(client: httpx.AsyncClient) -> None:
    answer = await client.post(PROBE, json={"artifacts": 1}, headers=host("fal.run"))
    url = httpx.URL(answer.json()["images"][0]["url"])
    assert (url.scheme, url.host) == ("https", "fal.run")
    for name in ("fal.run", "queue.fal.run", "v3.fal.media", "rest.fal.ai", "testserver"):
        assert (await client.get(url.path, headers=host(name))).status_code == 200
    by_target = await client.get("/fal/proxy", headers=to(f"https://v3.fal.media{url.path}"))
    assert by_target.status_code == 200


async def test_own_paths_are_the_same_under_every_host(client: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/v1/models", "/openapi.json"):
        for name in ("queue.fal.run", "rest.fal.ai", "api.fal.ai"):
            assert (await client.get(path, headers=host(name))).status_code == 200
    for prefixed in ("/queue/test/probe", "/run/test/probe"):
        answer = await client.post(prefixed, json={"echo": 6}, headers=host("queue.fal.run"))
        assert ("request_id" in answer.json()) == prefixed.startswith("/queue")


async def test_a_service_below_our_name_is_recognized_by_its_host(
    client: httpx.AsyncClient,
) -> None:
    queued = (await client.post(PROBE, json={}, headers=host("queue.localhost:8443"))).json()
    assert queued["response_url"].startswith("http://queue.localhost:8443/test/probe/requests/")
    answer = await client.post(PROBE, json={}, headers=host("queue.example.org"))
    assert answer.json()["error_type"] == "untrusted_host"


async def test_our_tls_port_makes_urls_https(client: httpx.AsyncClient) -> None:
    headers = {"host": "localhost:8443", "x-darkroom-scheme": "https"}
    queued = (await client.post(f"/queue{PROBE}", json={}, headers=headers)).json()
    assert queued["status_url"].startswith("https://localhost:8443/queue/test/probe/requests/")


async def test_a_forwarded_scheme_is_believed_of_a_trusted_proxy_only() -> None:
    async def scheme(protocol: str, *trusted: str, client: str = "10.0.0.5") -> str:
        async with build_house(replica=False, trusted_proxies=trusted) as house:
            transport = httpx.ASGITransport(house.app, client=(client, 4000))
            headers = {"Authorization": f"Key {house.key}", "x-forwarded-proto": protocol}
            async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as caller:
                queued = (await caller.post(f"/queue{PROBE}", json={}, headers=headers)).json()
            return queued["response_url"].partition(":")[0]

    assert await scheme("https") == "http"
    assert await scheme("https", client="127.0.0.1") == "http"
    assert await scheme("https", "10.0.0.6") == "http"
    assert await scheme("https", "10.0.0.0/24") == "https"
    assert await scheme("https", "10.0.0.5", client="127.0.0.1") == "https"  # HAProxy's
    assert await scheme("wss", "10.0.0.5") == "http"


async def test_the_scheme_that_uvicorn_believes_is_not_used(house: House) -> None:
    async def forwarded(scope: Any, receive: Any, send: Any) -> None:
        await house.app({**scope, "scheme": "wss"}, receive, send)

    headers = {"Authorization": f"Key {house.key}"}
    transport = httpx.ASGITransport(forwarded)
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers) as caller:
        queued = (await caller.post(f"/queue{PROBE}", json={})).json()
    assert queued["response_url"].startswith("http://")


async def test_files_of_a_darkroom_on_loopback_can_be_opened_outside_of_its_clients() -> None:
    headers = {"host": "fal.run", "x-darkroom-scheme": "https"}
    for where, origin in (("127.0.0.1", "http://127.0.0.1:8765"), ("0.0.0.0", "https://fal.run")):  # noqa: S104
        async with build_house(host=where, port=8765) as house, house.client() as client:
            ran = await client.post(PROBE, json={"artifacts": 1}, headers=headers)
            assert ran.json()["images"][0]["url"].startswith(f"{origin}/files/")
            headers_of_queue = headers | {"host": "queue.fal.run"}
            queued = (await client.post(PROBE, json={}, headers=headers_of_queue)).json()
            assert queued["response_url"].startswith("https://queue.fal.run/test/probe/")


async def test_with_a_public_url_clients_of_fal_s_hosts_still_find_their_requests_there() -> None:
    async with (
        build_house(public_url="https://images.example.org") as house,
        house.client() as client,
    ):
        at_fal = (await client.post(PROBE, json={}, headers=host("queue.fal.run"))).json()
        assert at_fal["status_url"].startswith("https://queue.fal.run/test/probe/requests/")
        for name in ("queue.localhost", "whatever.example.org"):
            path = PROBE if name.startswith("queue.") else f"/queue{PROBE}"
            queued = (await client.post(path, json={}, headers=host(name))).json()
            base = "https://images.example.org/queue/test/probe/requests/"
            assert queued["response_url"].startswith(base)
        ran = await client.post(PROBE, json={"artifacts": 1}, headers=host("fal.run"))
        url = ran.json()["images"][0]["url"]
        assert url.startswith("https://images.example.org/files/")


async def test_a_browser_may_send_what_fal_s_client_sends(client: httpx.AsyncClient) -> None:
    names = "authorization,content-type,x-fal-target-url,x-app-fal-disable-fallback"
    headers: dict[str, Any] = {"access-control-request-headers": names, "origin": "https://a.b"}
    answer = await client.options("/fal/proxy", headers=headers)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-headers"] == names
    called = await client.post("/fal/proxy", json={}, headers=to("https://fal.run/test/probe"))
    assert "x-fal-request-id" in called.headers["access-control-expose-headers"].split(", ")


def test_every_name_that_clients_call_is_fal_s() -> None:
    assert all(is_fal(name) for name in NAMES)


@given(st.text("abcfalrunmedi.-", max_size=30))
def test_a_name_is_fal_s_only_within_its_domains(name: str) -> None:
    ends = ("fal.run", "fal.ai", "fal.media", "falrun.com")
    shown = name.rstrip(".")
    assert is_fal(name) == (shown in ends or shown.endswith(tuple(f".{end}" for end in ends)))
    service_of(name)  # accepts any text
