"""Uploads of files by fal's calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from serve_app.domain.errors import StorageFull, StorageUnavailable
from serve_app.ingress.services.file_collector import FileCollector
from serve_app.queue.transactions.uploads import ABANDONED_S
from serve_app.storage.directory import DirectoryStorage
from serve_app.storage.keys import file_name
from serve_app.tenants.tokens import VALID_S
from tests.fakes.clock import FakeClock
from tests.ingress.house import ORIGIN, House, build_house

CONTENT = bytes(range(200))


def disposal(house: House) -> FileCollector:
    return FileCollector(house.uploads, house.storage)


async def token(client: httpx.AsyncClient) -> str:
    answer = await client.post("/rest/storage/auth/token?storage_type=fal-cdn-v3", json={})
    assert answer.status_code == 200, answer.text
    return answer.json()["token"]


def without_key(house: House, **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(house.app)
    return httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers)


async def initiate_upload(client: httpx.AsyncClient, how: str = "initiate", **more: str) -> Any:
    fields = {"file_name": "a.png", "content_type": "image/png"} | more
    answer = await client.post(f"/rest/storage/upload/{how}", json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_token_says_where_and_until_when(house: House, client: httpx.AsyncClient) -> None:
    answer = await client.post("/rest/storage/auth/token", json={})
    grant = answer.json()
    assert (grant["token_type"], grant["base_url"]) == ("Bearer", f"{ORIGIN}/cdn")
    assert grant["expires_at"].endswith("+00:00")


async def test_a_token_is_for_uploads_and_for_nothing_else(
    house: House, client: httpx.AsyncClient
) -> None:
    bearer = f"Bearer {await token(client)}"
    async with without_key(house, authorization=bearer) as holder:
        uploaded = await holder.post("/cdn/files/upload", content=CONTENT)
        assert uploaded.status_code == 200
        assert (await holder.get("/v1/requests")).status_code == 401
        assert (await holder.post("/rest/storage/auth/token", json={})).status_code == 401


async def test_a_token_ends_with_its_key(house: House, client: httpx.AsyncClient) -> None:
    async with house.client(house.weak_key) as leaver:
        bearer = f"Bearer {await token(leaver)}"
    await house.keys.revoke(house.weak_key.partition(":")[0])
    async with without_key(house, Authorization=bearer) as holder:
        for path in ("/cdn/files/upload", "/cdn/files/upload/multipart"):
            answer = await holder.post(path, content=CONTENT)
            assert answer.status_code == 401
            assert "no longer valid" in answer.json()["message"]
    bearer = f"Bearer {await token(client)}"
    async with without_key(house, Authorization=bearer) as holder:
        assert (await holder.post("/cdn/files/upload", content=CONTENT)).status_code == 200


async def test_an_old_token_is_refused() -> None:
    clock = FakeClock()
    async with build_house(clock=clock, replica=False) as house, house.client() as client:
        bearer = f"Bearer {await token(client)}"
        clock.advance(VALID_S)
        async with without_key(house, authorization=bearer) as holder:
            answer = await holder.post("/cdn/files/upload", content=CONTENT)
    assert (answer.status_code, "expired" in answer.json()["detail"]) == (401, True)
    assert house.storage.objects == {}


@pytest.mark.parametrize(
    "path",
    [
        "/rest/storage/auth/token",
        "/rest/storage/upload/initiate",
        "/rest/storage/upload/initiate-multipart",
        "/cdn/files/upload",
        "/cdn/files/upload/multipart",
    ],
)
async def test_every_beginning_takes_a_key(house: House, path: str) -> None:
    for authorization in ("", "Bearer nonsense", "Key a:" + "0" * 64):
        async with without_key(house, authorization=authorization) as stranger:
            assert (await stranger.post(path, json={})).status_code == 401
    assert house.storage.objects == {}


async def test_a_file_keeps_its_type_and_its_name(house: House, client: httpx.AsyncClient) -> None:
    headers: Any = {
        "content-type": "image/jpg",
        "x-fal-file-name": "M\xfctze & Co/x.cat.JPG".encode("latin-1"),
    }
    url = (await client.post("/cdn/files/upload", content=CONTENT, headers=headers)).json()
    answer = await client.get(url["access_url"])
    assert answer.content == CONTENT
    assert answer.headers["content-type"] == "image/jpeg"
    assert file_name(url["access_url"]) == "Mütze_Co_x_cat.jpg"
    assert answer.headers["content-disposition"].startswith("inline")


@pytest.mark.parametrize(
    ("name", "shown", "twin"),
    [
        ("größe 日本.png", "größe_日本.png", "groe.png"),
        ("日本.png", "日本.png", "file.png"),
        ("हिन्दी.png", "हिन्दी.png", "file.png"),
    ],
)
async def test_a_name_keeps_its_letters_and_has_a_twin_in_ascii(
    house: House, client: httpx.AsyncClient, name: str, shown: str, twin: str
) -> None:
    headers: Any = {"content-type": "image/png", "x-fal-file-name": name.encode()}
    sent = await client.post("/cdn/files/upload", content=CONTENT, headers=headers)
    body = {"file_name": name, "content_type": "image/png"}
    begun = (await client.post("/rest/storage/upload/initiate", json=body)).json()
    assert file_name(begun["file_url"]) == shown
    url = sent.json()["access_url"]
    assert url.isascii()
    disposition = (await client.get(url)).headers["content-disposition"]
    assert disposition == f"inline; filename=\"{twin}\"; filename*=UTF-8''{quote(shown)}"


@pytest.mark.parametrize("media_type", ["text/html", "image/svg+xml", "", "x" * 255])
async def test_what_a_browser_might_run_loses_its_type(
    house: House, client: httpx.AsyncClient, media_type: str
) -> None:
    headers = {"content-type": media_type, "x-fal-file-name": "page.html"}
    url = (await client.post("/cdn/files/upload", content=b"<script>", headers=headers)).json()
    answer = await client.get(url["access_url"])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_to_know_the_url_is_enough_to_bring_the_file(
    house: House, client: httpx.AsyncClient
) -> None:
    place = await initiate_upload(client)
    assert (await client.get(place["file_url"])).status_code == 404
    async with without_key(house) as anyone:
        answer = await anyone.put(place["upload_url"], content=CONTENT)
        assert (answer.status_code, answer.json()) == (200, {"file_url": place["file_url"]})
        again = await anyone.put(place["upload_url"], content=CONTENT)
        assert again.status_code == 200
        assert (await anyone.get(place["file_url"])).content == CONTENT


async def test_a_file_never_changes(house: House, client: httpx.AsyncClient) -> None:
    place = await initiate_upload(client)
    await client.put(place["upload_url"], content=CONTENT)
    assert (await client.put(place["upload_url"], content=b"other")).status_code == 403
    assert (await client.get(place["file_url"])).content == CONTENT


async def test_nothing_goes_to_a_url_that_was_not_handed_out(
    house: House, client: httpx.AsyncClient
) -> None:
    place, parts = (
        await initiate_upload(client),
        await initiate_upload(client, "initiate-multipart"),
    )
    for url in (
        place["upload_url"][:-1] + "x",
        place["upload_url"].replace("/upload/", "/multipart/") + "/1",
        parts["upload_url"].replace("/multipart/", "/upload/"),
        parts["upload_url"][:-1] + "x/1",
        place["file_url"] + "/upload/",
    ):
        assert (await client.put(url, content=CONTENT)).status_code in (403, 404)
    assert house.storage.objects == {}


async def test_the_key_of_another_tenant_brings_nothing(house: House) -> None:
    async with house.client() as client, house.client(house.other_key) as other:
        place, parts = (
            await initiate_upload(client),
            await initiate_upload(client, "initiate-multipart"),
        )
        assert (await other.put(place["upload_url"], content=b"x")).status_code == 404
        assert (await other.put(f"{parts['upload_url']}/1", content=b"x")).status_code == 404
        body = {"parts": [{"partNumber": 1, "etag": "x"}]}
        assert (await other.post(f"{parts['upload_url']}/complete", json=body)).status_code == 404
    assert house.storage.objects == {}


async def test_parts_become_a_file_in_whatever_order_they_are_named(
    house: House, client: httpx.AsyncClient
) -> None:
    headers = {"content-type": "video/mp4", "x-fal-file-name": "c.mp4"}
    begun = (await client.post("/cdn/files/upload/multipart", headers=headers)).json()
    base = f"{begun['access_url']}/multipart/{begun['uploadId']}"
    parts = []
    for number, content in ((3, b"cc"), (1, b"aa"), (2, b"bb")):
        answer = await client.put(f"{base}/{number}", content=content)
        assert answer.headers["etag"] == answer.json()["etag"]
        parts.append(answer.json())
    for _ in range(2):  # the second time for a client that lost the response
        joined = await client.post(f"{base}/complete", json={"parts": parts})
        assert joined.json() == {
            "access_url": begun["access_url"],
            "file_url": begun["access_url"],
            "file_size": 6,
        }
    answer = await client.get(begun["access_url"])
    assert (answer.content, answer.headers["content-type"]) == (b"aabbcc", "video/mp4")
    late = await client.put(f"{base}/4", content=b"dd")
    assert late.status_code == 404
    assert house.storage.parts == {}


async def in_two_parts(client: httpx.AsyncClient) -> tuple[str, Any, str]:
    """URL and body of the call that completes it, and its later URL."""
    place = await initiate_upload(client, "initiate-multipart")
    parts = [
        (await client.put(f"{place['upload_url']}/{number}", content=b"ab")).json()
        for number in (1, 2)
    ]
    return f"{place['upload_url']}/complete", {"parts": parts}, place["file_url"]


async def test_many_completions_at_once_all_succeed(
    tmp_path: Path,
) -> None:
    for storage in (None, DirectoryStorage(tmp_path, b"k" * 32, ORIGIN, FakeClock())):
        async with build_house(storage=storage, replica=False) as house, house.client() as client:
            url, body, file_url = await in_two_parts(client)
            answers = await asyncio.gather(*(client.post(url, json=body) for _ in range(8)))
            assert [answer.status_code for answer in answers] == [200] * 8
            assert (await client.get(file_url)).content == b"abab"


async def test_one_that_was_joined_by_an_ingress_that_died_is_found(tmp_path: Path) -> None:
    for storage in (None, DirectoryStorage(tmp_path, b"k" * 32, ORIGIN, FakeClock())):
        async with build_house(storage=storage, replica=False) as house, house.client() as client:
            url, body, file_url = await in_two_parts(client)
            key = file_url.removeprefix(f"{ORIGIN}/files/")
            upload = await house.uploads.find(key, url.split("/")[-2])
            assert upload is not None
            assert upload.parts_id is not None
            etags = {part["partNumber"]: part["etag"].strip('"') for part in body["parts"]}
            await house.services.files.storage.join_parts(key, upload.parts_id, etags)
            assert (await client.post(url, json=body)).json()["file_size"] == 4


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ([], "parts"),
        ([{"partNumber": 0, "etag": "x"}], "partNumber"),
        ([{"partNumber": 10_001, "etag": "x"}], "partNumber"),
        ([{"partNumber": 1}], "etag"),
        ([{"partNumber": 1, "etag": "another"}], "part 1"),
        ([{"partNumber": 2, "etag": "x"}], "part 2"),
        ("x", "parts"),
    ],
)
async def test_parts_that_are_not_there_are_named(
    house: House, client: httpx.AsyncClient, parts: Any, field: str
) -> None:
    place = await initiate_upload(client, "initiate-multipart")
    await client.put(f"{place['upload_url']}/1", content=b"x")
    answer = await client.post(f"{place['upload_url']}/complete", json={"parts": parts})
    assert (answer.status_code, field in answer.json()["message"]) == (422, True), answer.text


async def test_a_part_has_a_number_that_s3_takes(client: httpx.AsyncClient) -> None:
    place = await initiate_upload(client, "initiate-multipart")
    for number in (0, 10_001):
        answer = await client.put(f"{place['upload_url']}/{number}", content=b"x")
        assert (answer.status_code, "10000" in answer.json()["message"]) == (422, True)


async def pieces(count: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield bytes(size)


async def test_one_that_is_too_large_is_refused_and_leaves_nothing() -> None:
    async with build_house(replica=False, max_upload_bytes=1000) as house, house.client() as client:
        place = await initiate_upload(client)
        for content in (bytes(1001), pieces(11, 100)):
            refused = await client.post("/cdn/files/upload", content=content)
            assert refused.status_code == 413
            assert "DARKROOM_MAX_UPLOAD_BYTES" in refused.json()["detail"]
            assert refused.json()["error_type"] == "file_too_large"
        assert (await client.put(place["upload_url"], content=bytes(1001))).status_code == 413
        assert (await client.post("/cdn/files/upload", content=bytes(1000))).status_code == 200
        assert [len(stored) for stored in house.storage.objects.values()] == [1000]


async def test_parts_that_are_too_much_together_are_refused_and_given_up() -> None:
    async with build_house(replica=False, max_upload_bytes=1000) as house, house.client() as client:
        url = (await initiate_upload(client, "initiate-multipart"))["upload_url"]
        for size, status in ((1001, 413), (600, 200), (500, 200)):
            assert (await client.put(f"{url}/1", content=bytes(size))).status_code == status
        refused = await client.put(f"{url}/2", content=bytes(501))
        assert refused.status_code == 413
        assert "DARKROOM_MAX_UPLOAD_BYTES" in refused.json()["detail"]
        assert (await client.put(f"{url}/3", content=b"x")).status_code == 404
        await disposal(house).delete_garbage_uploads()
        assert (house.storage.objects, house.storage.parts) == ({}, {})


async def test_parts_that_are_too_much_together_are_not_joined_before_they_are_given_up() -> None:
    async with build_house(replica=False, max_upload_bytes=1000) as house, house.client() as client:
        place = await initiate_upload(client, "initiate-multipart")
        url = place["upload_url"]
        etags = [(await client.put(f"{url}/1", content=bytes(600))).json()["etag"]]
        (parts_id,) = house.storage.parts
        key = place["file_url"].partition("/files/")[2]
        part = await house.storage.put_part(key, parts_id, 2, pieces(1, 600))
        await house.services.files.uploads._book.add_part(key, part)  # its call has not ended yet
        parts = [{"partNumber": n, "etag": e} for n, e in enumerate([*etags, part.etag], 1)]
        joined = await client.post(f"{url}/complete", json={"parts": parts})
        assert joined.status_code == 413
        assert house.storage.objects == {}


async def test_a_disk_that_fills_up_meanwhile_is_reported() -> None:
    free = iter([True, True, False])

    async def room() -> None:
        if not next(free, False):
            raise StorageFull("Too little disk space is left.")

    async with build_house(replica=False, room=room) as house, house.client() as client:
        assert (await client.post("/cdn/files/upload", content=CONTENT)).status_code == 200
        refused = await client.post("/cdn/files/upload", content=pieces(20, 2**20))
        assert (refused.status_code, "disk" in refused.json()["detail"]) == (507, True)
        for how in ("initiate", "initiate-multipart"):
            answer = await client.post(f"/rest/storage/upload/{how}", json={})
            assert answer.status_code == 507
        assert len(house.storage.objects) == 1


async def test_a_client_that_goes_away_in_the_middle_leaves_nothing(house: House) -> None:
    async with house.client() as client:
        bearer = f"Bearer {await token(client)}"
    messages: Iterator[Any] = iter(
        [
            {"type": "http.request", "body": b"half", "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/cdn/files/upload",
        "raw_path": b"/cdn/files/upload",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"host", b"testserver"), (b"authorization", bearer.encode())],
        "app": house.app,
    }
    await house.app(scope, receive, send)
    assert house.storage.objects == {}
    assert len(await house.uploads.take_unwanted(10)) == 1


@pytest.mark.parametrize("how", ["initiate", "initiate-multipart"])
async def test_an_upload_that_never_comes_is_collected(how: str) -> None:
    clock = FakeClock()
    async with build_house(clock=clock, replica=False) as house, house.client() as client:
        place = await initiate_upload(client, how)
        if how == "initiate-multipart":
            await client.put(f"{place['upload_url']}/1", content=b"x")
            assert len(house.storage.parts) == 1
        clock.advance(ABANDONED_S + 1)
        await disposal(house).delete_garbage_uploads()
        assert house.storage.parts == {}
        below = "/1" if how == "initiate-multipart" else ""
        answer = await client.put(f"{place['upload_url']}{below}", content=CONTENT)
        assert (answer.status_code, "Begin a new one" in answer.json()["detail"]) == (404, True)


async def test_a_tenant_deletes_what_it_uploaded(house: House, client: httpx.AsyncClient) -> None:
    url = (await client.post("/cdn/files/upload", content=CONTENT)).json()["access_url"]
    path = url.replace(f"{ORIGIN}/files/", "/v1/uploads/")
    async with house.client(house.other_key) as other:
        assert (await other.delete(path)).status_code == 404
    assert (await client.get(url)).content == CONTENT
    answer = await client.delete(path)
    assert (answer.status_code, answer.json()["deleted_files"]) == (200, 1)
    assert (await client.get(url)).status_code == 404
    assert (await client.delete(path)).status_code == 404
    await disposal(house).delete_garbage_uploads()
    assert await house.uploads.take_unwanted(10) == []


async def test_what_cannot_be_deleted_now_is_deleted_later(
    house: House, client: httpx.AsyncClient
) -> None:
    url = (await client.post("/cdn/files/upload", content=CONTENT)).json()["access_url"]
    house.storage.away = StorageUnavailable("The storage is away.")
    answer = await client.delete(url.replace(f"{ORIGIN}/files/", "/v1/uploads/"))
    assert (answer.status_code, answer.json()["later_files"]) == (200, 1)
    house.storage.away = None
    await disposal(house).delete_garbage_uploads()
    assert (await client.get(url)).status_code == 404


LIFECYCLES = ("X-Fal-Object-Lifecycle", "X-Fal-Object-Lifecycle-Preference")


@pytest.mark.parametrize("name", LIFECYCLES)
async def test_a_file_is_deleted_when_its_client_said(name: str) -> None:
    clock = FakeClock()
    async with build_house(clock=clock, replica=False) as house, house.client() as client:
        headers = {name: json.dumps({"expiration_duration_seconds": 3600})}
        kept = (await client.post("/cdn/files/upload", content=CONTENT)).json()["access_url"]
        answer = await client.post("/cdn/files/upload", content=CONTENT, headers=headers)
        place = await client.post("/rest/storage/upload/initiate", json={}, headers=headers)
        await client.put(place.json()["upload_url"], content=CONTENT)
        urls = [answer.json()["access_url"], place.json()["file_url"]]
        clock.advance(3599)
        await disposal(house).delete_garbage_uploads()
        assert [(await client.get(url)).status_code for url in urls] == [200, 200]
        clock.advance(2)
        await disposal(house).delete_garbage_uploads()
        assert [(await client.get(url)).status_code for url in urls] == [404, 404]
        assert (await client.get(kept)).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        {"expiration_duration_seconds": 0},
        {"expiration_duration_seconds": -1},
        {"expiration_duration_seconds": "soon"},
        {"expiration_duration_seconds": 1e300},
        {"expires": 5},
        [],
    ],
)
async def test_a_wish_that_cannot_be_kept_is_refused(
    house: House, client: httpx.AsyncClient, value: Any
) -> None:
    for name in LIFECYCLES:
        headers = {name: json.dumps(value)}
        answer = await client.post("/cdn/files/upload", content=CONTENT, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["header", name]
    assert house.storage.objects == {}


async def test_an_open_lifecycle_is_no_wish(client: httpx.AsyncClient) -> None:
    headers = {LIFECYCLES[0]: '{"initial_acl": {"default": "allow", "rules": []}}'}
    answer = await client.post("/cdn/files/upload", content=CONTENT, headers=headers)
    assert answer.status_code == 200


async def test_what_else_fal_has_there_is_refused_by_name(client: httpx.AsyncClient) -> None:
    for path in ("/rest/billing", "/cdn/files"):
        answer = await client.post(path, json={})
        assert (answer.status_code, path in answer.json()["detail"]) == (400, True)


@pytest.mark.parametrize("number", ["0", "10001", "9" * 5000, "-1", "one"])
async def test_a_part_without_a_number_that_can_be_is_refused(
    house: House, client: httpx.AsyncClient, number: str
) -> None:
    place = await initiate_upload(client, "initiate-multipart")
    answer = await client.put(f"{place['upload_url']}/{number}", content=CONTENT)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["path", "number"]
    assert house.storage.objects == {}
