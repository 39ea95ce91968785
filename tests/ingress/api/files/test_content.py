from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from serve_app.domain.errors import StorageFull
from serve_app.ingress.api.files.content import LINK_VALID_S
from tests.fakes.clock import FakeClock
from tests.ingress.house import House, build_house

KEY = "r/0195/1/abcdefgh.png"
CONTENT = bytes(range(100))
NINES = "9" * 5000
LONG = (f"bytes={NINES}-", f"bytes=-{NINES}", f"bytes=0-{NINES}")


def ticket(house: House, *, max_bytes: int = 1000, valid_s: float = 60) -> str:
    return house.storage.ticket(KEY, "image/png", max_bytes, valid_s).url


@pytest.fixture
async def file_url(house: House) -> str:
    house.storage.objects[KEY] = CONTENT
    return f"/files/{KEY}"


async def test_a_file_comes_with_its_type_its_length_and_for_ever(
    client: httpx.AsyncClient, file_url: str
) -> None:
    answer = await client.get(file_url)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == "100"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["etag"].startswith('"')
    assert answer.headers["content-disposition"].startswith("inline")


@pytest.mark.parametrize(
    ("name", "media_type"), [("a/video.mp4", "video/mp4"), ("a/song.mp3", "audio/mpeg")]
)
async def test_videos_and_audio_files_are_played_where_they_are_opened(
    house: House, client: httpx.AsyncClient, name: str, media_type: str
) -> None:
    house.storage.objects[name] = b"frames"
    answer = await client.get(f"/files/{name}")
    assert answer.headers["content-type"] == media_type
    assert answer.headers["content-disposition"].startswith("inline")


async def test_what_is_no_image_is_a_download(house: House, client: httpx.AsyncClient) -> None:
    house.storage.objects["a/page.html"] = b"<script>"
    answer = await client.get("/files/a/page.html")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")


async def test_head_returns_all_but_the_content(client: httpx.AsyncClient, file_url: str) -> None:
    answer = await client.head(file_url)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == "100"


async def test_a_file_that_the_client_has_is_not_sent_again(
    client: httpx.AsyncClient, file_url: str
) -> None:
    etag = (await client.get(file_url)).headers["etag"]
    for header in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        assert (await client.get(file_url, headers={"If-None-Match": header})).status_code == 304
    assert (await client.get(file_url, headers={"If-None-Match": '"x"'})).status_code == 200


@pytest.mark.parametrize(
    ("byte_range", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=90-", 90, 100),
        ("bytes=-5", 95, 100),
        ("bytes=95-500", 95, 100),
        ("bytes=-500", 0, 100),
    ],
)
async def test_a_range_is_a_part(
    client: httpx.AsyncClient, file_url: str, byte_range: str, start: int, end: int
) -> None:
    answer = await client.get(file_url, headers={"Range": byte_range})
    assert (answer.status_code, answer.content) == (206, CONTENT[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/100"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("byte_range", ["bytes=100-", "bytes=200-300", "bytes=-0"])
async def test_a_range_outside_is_reported(
    client: httpx.AsyncClient, file_url: str, byte_range: str
) -> None:
    answer = await client.get(file_url, headers={"Range": byte_range})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */100"
    assert answer.headers["content-type"] == "application/json", "it is no image"
    assert answer.json()["detail"] == "The range is outside the file."
    assert "cache-control" not in answer.headers


@pytest.mark.parametrize(
    "byte_range", ["bytes=0-1,5-6", "lines=1-2", "bytes=-", "bytes=9-3", "x", *LONG]
)
async def test_a_range_that_is_none_is_ignored(
    client: httpx.AsyncClient, file_url: str, byte_range: str
) -> None:
    assert (await client.get(file_url, headers={"Range": byte_range})).status_code == 200


async def test_a_range_of_another_version_is_the_whole(
    client: httpx.AsyncClient, file_url: str
) -> None:
    headers = {"Range": "bytes=0-1", "If-Range": '"other"'}
    assert (await client.get(file_url, headers=headers)).status_code == 200


async def test_where_storage_serves_itself_clients_are_sent_there(
    house: House, client: httpx.AsyncClient, file_url: str
) -> None:
    house.storage.links = "https://bucket.example"
    answer = await client.get(file_url, headers={"Range": "bytes=0-1"})
    assert answer.status_code == 307
    link = httpx.URL(answer.headers["location"])
    assert (link.host, link.path) == ("bucket.example", f"/{KEY}")
    assert link.params["type"] == "image/png"
    assert link.params["disposition"].startswith("inline")
    # A cached response must expire before its link does.
    assert answer.headers["cache-control"] == "private, max-age=300"
    assert LINK_VALID_S > 300


async def test_what_needs_no_content_is_answered_here_all_the_same(
    house: House, client: httpx.AsyncClient, file_url: str
) -> None:
    house.storage.links = "https://bucket.example"
    head = await client.head(file_url)
    assert (head.status_code, head.headers["content-length"]) == (200, "100")
    known = await client.get(file_url, headers={"If-None-Match": head.headers["etag"]})
    assert known.status_code == 304
    assert (await client.head("/files/nothing.png")).status_code == 404


async def test_storage_that_serves_itself_is_not_asked_before_what_it_has(
    house: House, client: httpx.AsyncClient
) -> None:
    house.storage.links = "https://bucket.example"
    assert (await client.get("/files/nothing.png")).status_code == 307


@pytest.mark.parametrize("key", ["nothing.png", "%2e%2e/x", "a//b", ".hidden", ""])
async def test_what_is_not_there_is_not_found(client: httpx.AsyncClient, key: str) -> None:
    assert (await client.get(f"/files/{key}")).status_code == 404


async def test_an_upload_takes_a_ticket_and_no_key(house: House) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(house.app)) as replica:
        answer = await replica.put(
            ticket(house), content=CONTENT, headers={"content-type": "image/png"}
        )
        assert (answer.status_code, answer.json()["size"]) == (200, 100)
        assert house.storage.objects[KEY] == CONTENT
        assert (await replica.delete(ticket(house))).status_code == 204
        assert KEY not in house.storage.objects


async def test_without_a_ticket_nothing_is_written(house: House, client: httpx.AsyncClient) -> None:
    good = ticket(house)
    for url in (f"/files/{KEY}", good.replace("abcdefgh", "other"), good[:-1] + "x", "/files/.x"):
        assert (await client.put(url, content=b"x")).status_code == 403
        assert (await client.delete(url)).status_code == 403
    assert house.storage.objects == {}


async def test_an_old_ticket_is_refused() -> None:
    clock = FakeClock()
    async with build_house(clock=clock, replica=False) as house, house.client() as client:
        url = ticket(house)
        clock.advance(61)
        answer = await client.put(url, content=b"x")
    assert (answer.status_code, "expired" in answer.json()["detail"]) == (403, True)


async def test_an_upload_over_its_ticket_is_refused(
    house: House, client: httpx.AsyncClient
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 40

    declared = await client.put(ticket(house, max_bytes=99), content=CONTENT)
    undeclared = await client.put(ticket(house, max_bytes=99), content=chunks())
    assert (declared.status_code, undeclared.status_code) == (413, 413)
    assert house.storage.objects == {}


async def test_another_type_than_the_tickets_is_refused(
    house: House, client: httpx.AsyncClient
) -> None:
    answer = await client.put(ticket(house), content=b"x", headers={"content-type": "text/html"})
    assert answer.status_code == 422


async def test_a_full_disk_is_reported(house: House, client: httpx.AsyncClient) -> None:
    house.storage.away = StorageFull("The disk that holds the artifacts is full.")
    answer = await client.put(ticket(house), content=b"x")
    assert answer.status_code == 507
    assert "full" in answer.json()["detail"]


async def test_a_disk_that_is_too_full_for_submits_still_takes_artifacts_down_to_their_floor() -> (
    None
):
    fullest = False

    async def full() -> None:
        raise StorageFull("Too little disk space to accept requests.")

    async def floor() -> None:
        if fullest:
            raise StorageFull("Too little disk space to accept artifacts.")

    async with (
        build_house(replica=False, room=full, artifact_room=floor) as house,
        house.client() as client,
    ):
        submitted = await client.post("/fal-ai/flux/schnell", json={"prompt": "a red circle"})
        assert submitted.status_code == 507
        assert (await client.put(ticket(house), content=b"x")).status_code == 200
        fullest = True
        refused = await client.put(ticket(house), content=b"x")
        assert (refused.status_code, "artifacts" in refused.json()["detail"]) == (507, True)
        assert len(house.storage.objects) == 1
