"""Open calls end with what they were let in by, and nothing goes out any more."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest

from serve_app.domain.errors import Forbidden
from serve_app.domain.request import Request, State
from serve_app.ingress.http.paths import MCP_PATH, REPLICATE_PREFIX
from serve_app.ingress.http.route_scopes import NO_KEY
from serve_app.ingress.services.open_access import OpenAccess, OpenCall, require_no_less
from serve_app.tenants.scopes import API, FILES, OPERATOR, READ, SUBMIT, Caller
from tests.ingress.api.files.private import CONTENT, generate, lifecycle, without_key
from tests.ingress.exchange import Exchange, open_call
from tests.ingress.house import ORIGIN, House
from tests.ingress.http.test_route_scopes import ENDLESS, scopes

LONG = {"sleep_s": 300}
LARGE = 3_000_000  # bytes, several parts of a response
TENANT = "cat"


@dataclass(frozen=True, slots=True)
class Place:
    """A tenant with a key, and a request of it that runs."""

    house: House
    admin: httpx.AsyncClient
    key: str
    request_id: str

    async def revoke(self) -> None:
        assert await self.house.keys.revoke(self.key.partition(":")[0])

    async def rotate(self) -> None:
        assert await self.house.keys.rotate(self.key.partition(":")[0], overlap_s=0.0)

    async def disable(self) -> None:
        answer = await self.admin.put(f"/v1/tenants/{TENANT}/disable", json={})
        assert answer.status_code == 200, answer.text

    async def delete(self) -> None:
        answer = await self.admin.delete(f"/v1/tenants/{TENANT}?usage=keep")
        assert answer.status_code in (200, 202), answer.text


@pytest.fixture
async def place(house: House) -> AsyncIterator[Place]:
    key = str(await house.keys.create(TENANT))
    async with house.client() as admin, client_of(house, key) as client:
        submitted = await client.post("/queue/test/probe", json=LONG)
        assert submitted.status_code == 200, submitted.text
        request_id = submitted.json()["request_id"]
        await until(house, request_id, lambda request: request.state is State.RUNNING)
        yield Place(house, admin, key, request_id)


async def until(house: House, request_id: str, enough: Callable[[Request], bool]) -> None:
    async with asyncio.timeout(60):
        request = await house.queue.get(TENANT, request_id)
        while not enough(request):
            request = await house.queue.wait_for_change(TENANT, request_id, 60, since=request)


def client_of(house: House, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(house.app),
        base_url=ORIGIN,
        headers={"authorization": f"Key {key}"},
    )


Opening = AbstractAsyncContextManager[Exchange]


def wait(place: Place) -> Opening:
    return open_call(place.house, "GET", f"/v1/requests/{place.request_id}?wait=60", place.key)


def events(place: Place) -> Opening:
    return open_call(place.house, "GET", f"/v1/requests/{place.request_id}/events", place.key)


def changes(place: Place) -> Opening:
    return open_call(place.house, "GET", "/v1/events", place.key)


def status_stream(place: Place) -> Opening:
    url = f"/queue/test/probe/requests/{place.request_id}/status/stream"
    return open_call(place.house, "GET", url, place.key)


def run(place: Place) -> Opening:
    return open_call(place.house, "POST", "/run/test/probe", place.key, body=LONG)


def stream(place: Place) -> Opening:
    body = LONG | {"steps": 300}
    return open_call(place.house, "POST", "/test/probe/stream", place.key, body=body)


def prediction(place: Place) -> Opening:
    url, body = f"{REPLICATE_PREFIX}/models/test/probe/predictions", {"input": LONG}
    headers = {"prefer": "wait=60"}
    return open_call(place.house, "POST", url, place.key, body=body, headers=headers)


def prediction_stream(place: Place) -> Opening:
    url = f"{REPLICATE_PREFIX}/predictions/{place.request_id}/stream"
    return open_call(place.house, "GET", url, place.key)


def tool(place: Place) -> Opening:
    arguments = {"request_id": place.request_id, "wait_s": 60}
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "wait", "arguments": arguments, "_meta": {"progressToken": 1}},
    }
    headers = {"accept": "application/json, text/event-stream"}
    return open_call(place.house, "POST", MCP_PATH, place.key, body=body, headers=headers)


def upload(place: Place) -> Opening:
    headers = {"content-type": "image/png", "x-fal-file-name": "a.png"}
    url, body = "/cdn/files/upload", b"a beginning"
    return open_call(place.house, "POST", url, place.key, body=body, headers=headers, more=True)


async def large_file(client: httpx.AsyncClient) -> str:
    """URL of a private upload, signed."""
    headers = lifecycle("forbid") | {"content-type": "image/png", "x-fal-file-name": "a.png"}
    answer = await client.post("/cdn/files/upload", content=b"x" * LARGE, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_url"])


@asynccontextmanager
async def zip_of_files(place: Place) -> AsyncIterator[Exchange]:
    async with client_of(place.house, place.key) as client:
        request_id, _ = await generate(client, content=LARGE, artifacts=3)
    body = {"request_ids": [request_id]}
    url = "/v1/requests/zip"
    async with open_call(place.house, "POST", url, place.key, body=body, slow=True) as call:
        yield call


@asynccontextmanager
async def file(place: Place) -> AsyncIterator[Exchange]:
    async with client_of(place.house, place.key) as client:
        url = await large_file(client)
    path = url.removeprefix(ORIGIN).partition("?")[0]
    async with open_call(place.house, "GET", path, place.key, slow=True) as call:
        yield call


Open = Callable[[Place], Opening]
BEFORE: tuple[Open, ...] = (wait, run, prediction, upload)
"""Calls whose response does not begin before their end."""
STREAMS: tuple[Open, ...] = (events, changes, status_stream, stream, prediction_stream, tool)
DOWNLOADS: tuple[Open, ...] = (zip_of_files, file)

End = Callable[[Place], Awaitable[None]]
ENDS: Mapping[str, tuple[End, int]] = {
    "revoked": (Place.revoke, 401),
    "rotated": (Place.rotate, 401),
    "disabled": (Place.disable, 403),
    "deleted": (Place.delete, 403),
}


async def still_open(call: Exchange) -> None:
    """Several checks later, nothing has ended it."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await call.ended.wait()


@pytest.mark.parametrize("why", ENDS)
@pytest.mark.parametrize("open_", BEFORE, ids=lambda call: call.__name__)
async def test_a_call_that_waits_is_refused_when_its_access_ends(
    place: Place, open_: Open, why: str
) -> None:
    end, status = ENDS[why]
    async with open_(place) as call:
        await still_open(call)
        await end(place)
        await call.end()
    assert (call.status, call.cut) == (status, False), call.content


@pytest.mark.variants(5)
@pytest.mark.parametrize("why", ENDS)
@pytest.mark.parametrize("open_", STREAMS, ids=lambda call: call.__name__)
async def test_a_stream_ends_with_the_error_when_its_access_ends(
    place: Place, open_: Open, why: str
) -> None:
    end, _ = ENDS[why]
    async with open_(place) as call:
        await still_open(call)
        assert call.status in (0, 200), call.content
        await end(place)
        await call.end()
    assert not call.cut
    if call.status == 200:
        name, error = call.last_event
        assert (name, "detail" in error or "error" in error) == ("error", True)


@pytest.mark.parametrize("why", ["revoked", "disabled"])
@pytest.mark.parametrize("open_", DOWNLOADS, ids=lambda call: call.__name__)
async def test_a_download_is_cut_off_when_its_access_ends(
    place: Place, open_: Open, why: str
) -> None:
    end, _ = ENDS[why]
    async with open_(place) as call:
        await still_open(call)
        await end(place)
        await call.end()
    assert (call.status, call.cut) == (200, True)
    assert len(call.content) < LARGE


async def test_a_run_whose_access_ended_is_cancelled_as_nobody_waits_for_it(place: Place) -> None:
    async with run(place) as call:
        await still_open(call)
        await place.revoke()
        await call.end()
    newest, own = await place.house.queue.page(TENANT, limit=2)
    await until(
        place.house, newest.id, lambda request: request.cancel_requested or request.state.final
    )
    assert own.id == place.request_id
    assert not own.cancel_requested, "its client had submitted it, and did not wait"


async def test_calls_of_other_keys_go_on(place: Place) -> None:
    other = str(await place.house.keys.create(TENANT))
    url = f"/v1/requests/{place.request_id}/events"
    async with open_call(place.house, "GET", url, other) as call, events(place) as ended:
        await still_open(call)
        await place.revoke()
        await ended.end()
        await still_open(call)


async def test_every_call_with_a_key_is_known_by_what_it_was_let_in_by(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it would end with it, if it were open for long."""
    known: list[object] = []
    unknown: set[str] = set()
    end = OpenAccess.end

    def noted(self: OpenAccess, call: OpenCall) -> None:
        known.append(call.access and call.access.holder)
        end(self, call)

    monkeypatch.setattr(OpenAccess, "end", noted)
    id_ = "0190a0a0-0000-7000-8000-000000000000"
    async with house.client() as client:
        for (method, path), scope in scopes().items():
            if scope == NO_KEY or method == "HEAD" or path.startswith("/files/"):
                continue
            if path in ENDLESS:  # `changes` above
                continue
            answer = await client.request(method, re.sub(r"\{[^}]*\}", id_, path), json={})
            is_no_endpoint = answer.status_code == 404 and path.endswith("{path:path}")
            if known.pop() is None and not is_no_endpoint:
                unknown.add(f"{answer.status_code} {method} {path}")
    assert unknown == set()


# Credentials that are no keys


async def test_a_stream_by_its_token_ends_with_its_key(place: Place) -> None:
    token = place.house.services.identity.stream_tokens.issue(
        place.key.partition(":")[0], place.request_id
    )
    url = f"{REPLICATE_PREFIX}/predictions/{place.request_id}/stream?token={token}"
    async with open_call(place.house, "GET", url, None) as call:
        await still_open(call)
        await place.revoke()
        await call.end()
    assert call.last_event[0] == "error"


async def test_a_stream_by_a_browsers_token_ends_with_its_key(place: Place) -> None:
    async with client_of(place.house, place.key) as client:
        token = (await client.post("/rest/tokens", json={"allowed_apps": ["test/probe"]})).json()
    url = f"/test/probe/stream?fal_jwt_token={token}"
    async with open_call(place.house, "POST", url, None, body=LONG) as call:
        await still_open(call)
        await place.revoke()
        await call.end()
    assert call.last_event[0] == "error"


@pytest.mark.parametrize("why", ["revoked", "disabled"])
async def test_an_upload_by_a_token_ends_with_its_key(place: Place, why: str) -> None:
    end, status = ENDS[why]
    async with client_of(place.house, place.key) as client:
        token = (await client.post("/rest/storage/auth/token", json={})).json()["token"]
    headers = {"authorization": f"Bearer {token}", "content-type": "image/png"}
    url, body = "/cdn/files/upload", b"a beginning"
    async with open_call(
        place.house, "POST", url, None, body=body, headers=headers, more=True
    ) as call:
        await still_open(call)
        await end(place)
        await call.end()
    assert call.status == status


@pytest.mark.parametrize("why", ["revoked", "disabled"])
async def test_an_upload_to_its_url_ends_with_the_key_that_asked_for_it(
    place: Place, why: str
) -> None:
    end, status = ENDS[why]
    async with client_of(place.house, place.key) as client:
        new = {"content_type": "image/png", "file_name": "a.png"}
        offered = (await client.post("/rest/storage/upload/initiate", json=new)).json()
    url = offered["upload_url"].removeprefix(ORIGIN)
    headers = {"content-type": "image/png"}
    async with open_call(
        place.house, "PUT", url, None, body=b"a beginning", headers=headers, more=True
    ) as call:
        await still_open(call)
        await end(place)
        await call.end()
    assert call.status == status
    async with without_key(place.house) as anyone:
        answer = await anyone.put(url, content=CONTENT, headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize("why", ["revoked", "disabled"])
async def test_a_download_by_a_signed_url_ends_with_the_url_and_its_tenant(
    place: Place, why: str
) -> None:
    async with client_of(place.house, place.key) as client:
        url = await large_file(client)
        path = url.removeprefix(ORIGIN)
        async with open_call(place.house, "GET", path, None, slow=True) as call:
            await still_open(call)
            if why == "revoked":
                body = {"path": path.partition("?")[0]}
                assert (await client.post("/v1/files/revoke", json=body)).status_code == 200
            else:
                await place.disable()
            await call.end()
    assert (call.status, call.cut) == (200, True)
    async with without_key(place.house) as anyone:
        assert (await anyone.get(url)).status_code == 403


async def test_a_share_link_ends_with_its_tenant(place: Place) -> None:
    async with client_of(place.house, place.key) as client, without_key(place.house) as anyone:
        shared = (await client.post(f"/v1/requests/{place.request_id}/share", json={})).json()
        assert (await anyone.get(shared["url"])).status_code == 200
        await place.disable()
        assert (await anyone.get(shared["url"])).status_code == 404


# Rights that become fewer


BEFORE_IT = Caller("oidc:ada", "studio", frozenset({API, FILES}), endpoints=("fal-ai/*",))


@pytest.mark.parametrize(
    "now",
    [
        Caller("oidc:ada", "studio", frozenset({API}), endpoints=("fal-ai/*",)),
        Caller("oidc:ada", "studio", frozenset({API, OPERATOR})),
    ],
)
def test_rights_that_stay_or_grow_end_nothing(now: Caller) -> None:
    require_no_less(BEFORE_IT, now)


@pytest.mark.parametrize(
    "now",
    [
        Caller("oidc:ada", "studio", frozenset({SUBMIT, READ}), endpoints=("fal-ai/*",)),
        Caller("oidc:ada", "studio", frozenset({API}), endpoints=("fal-ai/flux",)),
        Caller("oidc:ada", "another", frozenset({API})),
    ],
)
def test_rights_that_become_fewer_end_the_call(now: Caller) -> None:
    with pytest.raises(Forbidden):
        require_no_less(BEFORE_IT, now)
