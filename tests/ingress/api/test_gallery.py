"""The gallery over HTTP: files with thumbnails, search, favourites, deletion of many."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
import pytest

from serve_app.domain.artifact import Artifact
from serve_app.domain.outcome import Outcome
from serve_app.ingress.api.gallery.items import output_files
from tests.ingress.fal.test_submit import submit, wait_until_completed
from tests.ingress.house import House


async def run_request(client: httpx.AsyncClient, **body: Any) -> str:
    """Id of a request that has ended."""
    submitted = await submit(client, **body)
    await wait_until_completed(client, submitted)
    return submitted["request_id"]


async def list_requests(client: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await client.get("/v1/requests", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_listed_request_has_its_files_and_their_thumbnails(house: House) -> None:
    async with house.client() as client:
        id_ = await run_request(client, artifacts=1, content="pixels", thumbnails=True)
        (shown,) = (await list_requests(client))["requests"]
        (file,) = shown["files"]
        assert (file["content_type"], file["file_size"], file["width"]) == (
            "application/octet-stream",
            6,
            8,
        )
        assert (await client.get(file["url"])).content == b"pixels"
        small = file["thumbnail"]
        answer = await client.get(small["url"])
        assert (answer.content, answer.headers["content-type"]) == (b"pixels", "image/webp")
        details = (await client.get(f"/v1/requests/{id_}")).json()
        assert details["files"] == shown["files"]
        deleted = (await client.delete(f"/v1/requests/{id_}")).json()
        assert deleted == {"deleted_files": 2, "later_files": 0}
        assert (await client.get(small["url"])).status_code == 404


def test_an_image_of_another_file_is_a_poster() -> None:
    keys = ("a.mp4", "a.jpeg", "b.mp4", "b.jpeg", "c.wav", "c.png", "d.png")
    artifacts = tuple(Artifact(key, "image/png", 1, "") for key in keys)
    video, poster, second, other, sound, wave, image = ({"artifact": key} for key in keys)
    output = {
        "video": video,
        "poster": poster,
        "videos": [video, second],
        "posters": [poster, other],
        "audio": sound,
        "waveform": wave,
        "image": image,
        "seed": 1,
    }
    files = output_files(Outcome(output, artifacts), str)
    posters = [file["url"] for file in files if file["poster"]]
    assert posters == ["a.jpeg", "b.jpeg", "c.png"]


async def test_a_file_without_a_thumbnail_says_so(client: httpx.AsyncClient) -> None:
    await run_request(client, artifacts=2)
    (shown,) = (await list_requests(client))["requests"]
    assert [file["thumbnail"] for file in shown["files"]] == [None, None]


async def ids(client: httpx.AsyncClient, **query: Any) -> list[str]:
    return [request["request_id"] for request in (await list_requests(client, **query))["requests"]]


async def test_requests_are_found_by_words_kind_and_endpoints(client: httpx.AsyncClient) -> None:
    red = await run_request(client, prompt="a red circle")
    blue = await run_request(client, prompt="a blue circle")
    assert await ids(client, q="circle") == [blue, red]
    assert await ids(client, q="Red CIRCLES circle") == []
    assert await ids(client, q="red circ") == [red]
    assert await ids(client, q="  ") == [blue, red]
    assert await ids(client, kind="image", q="circle") == [blue, red]
    assert await ids(client, kind="video") == []
    assert await ids(client, endpoint_id="none/such") == []
    (first,) = (await list_requests(client))["requests"][:1]
    assert await ids(client, endpoint_id=f"none/such,{first['endpoint_id']}") == [blue, red]
    page = await list_requests(client, q="circle", limit=1)
    assert await ids(client, q="circle", before=page["next_before"]) == [red]


async def test_favourites_are_marked_and_filtered(house: House) -> None:
    async with house.client() as client, house.client(house.other_key) as other:
        first, two = (
            await run_request(client, prompt="one"),
            await run_request(client, prompt="two"),
        )
        unknown = house.services.new_id()
        body = {"request_ids": [first, first, unknown], "favourite": True}
        answer = await client.post("/v1/requests/favourites", json=body)
        assert answer.json()["results"] == [
            {"request_id": first, "status": "done"},
            {"request_id": unknown, "status": "not_found"},
        ]
        assert await ids(client, favourite="true") == [first]
        shown = (await list_requests(client))["requests"]
        assert {request["request_id"]: request["favourite"] for request in shown} == {
            first: True,
            two: False,
        }
        assert (await client.get(f"/v1/requests/{first}")).json()["favourite"] is True
        results = (await other.post("/v1/requests/favourites", json=body)).json()["results"]
        assert {result["status"] for result in results} == {"not_found"}
        body |= {"favourite": False}
        assert (await client.post("/v1/requests/favourites", json=body)).status_code == 200
        assert await ids(client, favourite="true") == []


async def test_many_are_deleted_each_with_a_result(house: House) -> None:
    async with house.client() as client, house.client(house.other_key) as other:
        deleted = await run_request(client, artifacts=1)
        kept = await run_request(client, artifacts=1)
        foreign = await run_request(other)
        running = (await submit(client, sleep_s=30))["request_id"]
        body = {"request_ids": [deleted, foreign, running]}
        answer = await client.post("/v1/requests/delete", json=body)
        assert answer.json()["results"] == [
            {"request_id": deleted, "status": "deleted", "deleted_files": 1, "later_files": 0},
            {"request_id": foreign, "status": "not_found", "deleted_files": 0, "later_files": 0},
            {"request_id": running, "status": "active", "deleted_files": 0, "later_files": 0},
        ]
        assert set(await ids(client)) == {kept, running}


async def test_days_are_counted_in_a_time_zone(client: httpx.AsyncClient) -> None:
    id_ = await run_request(client, prompt="now")
    created = (await client.get(f"/v1/requests/{id_}")).json()["created_at"]
    at = datetime.fromisoformat(created)
    for zone in ("UTC", "Pacific/Kiritimati"):
        answer = await client.get("/v1/requests/days", params={"timezone": zone})
        day = at.astimezone(ZoneInfo(zone)).date().isoformat()
        assert answer.json() == {"days": [{"date": day, "requests": 1}]}
    assert (await client.get("/v1/requests/days?kind=audio")).json() == {"days": []}


@pytest.mark.parametrize(
    ("call", "named"),
    [
        ("/v1/requests?kind=text", "kind"),
        ("/v1/requests?favourite=1", "favourite"),
        (f"/v1/requests?q={'x' * 201}", "q"),
        ("/v1/requests?q=a%00b", "q"),
        ("/v1/requests?q=a&tenant=*", "q"),
        ("/v1/requests?favourite=true&tenant=*", "favourite"),
        ("/v1/requests/days?start=1999-01-01", "start"),
        ("/v1/requests/days?timezone=Mars", "timezone"),
        ("/v1/requests/days?kind=x", "kind"),
    ],
)
async def test_a_wrong_parameter_is_named(client: httpx.AsyncClient, call: str, named: str) -> None:
    answer = await client.get(call)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"][0]["loc"] == ["query", named]


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("favourites", {"request_ids": [], "favourite": True}, "request_ids"),
        ("favourites", {"request_ids": ["x"], "favourite": True}, "request_ids"),
        ("favourites", {"request_ids": [str(UUID(int=1))]}, "favourite"),
        ("delete", {"request_ids": [str(UUID(int=n)) for n in range(101)]}, "request_ids"),
        ("delete", {"request_ids": [str(UUID(int=1))], "all": True}, "all"),
    ],
)
async def test_a_wrong_body_is_refused_with_the_field(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], named: str
) -> None:
    answer = await client.post(f"/v1/requests/{path}", json=body)
    assert answer.status_code == 422, answer.text
    assert named in answer.json()["detail"][0]["loc"]
