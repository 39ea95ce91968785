"""The gallery over HTTP: files with thumbnails, search, favourites, deletion of many."""

from __future__ import annotations

from typing import Any

import httpx

from tests.ingress.fal.test_submit import completed, submit
from tests.ingress.house import House


async def made(client: httpx.AsyncClient, **body: Any) -> str:
    """Id of a request that has ended."""
    submitted = await submit(client, **body)
    await completed(client, submitted)
    return submitted["request_id"]


async def listed(client: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await client.get("/v1/requests", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_listed_request_has_its_files_and_their_thumbnails(house: House) -> None:
    async with house.client() as client:
        id_ = await made(client, artifacts=1, content="pixels", thumbnails=True)
        (shown,) = (await listed(client))["requests"]
        (file,) = shown["files"]
        assert (file["content_type"], file["file_size"], file["width"]) == ("image/png", 6, 8)
        assert (await client.get(file["url"])).content == b"pixels"
        small = file["thumbnail"]
        answer = await client.get(small["url"])
        assert (answer.content, answer.headers["content-type"]) == (b"pixels", "image/webp")
        details = (await client.get(f"/v1/requests/{id_}")).json()
        assert details["files"] == shown["files"]
        deleted = (await client.delete(f"/v1/requests/{id_}")).json()
        assert deleted == {"deleted_files": 2, "later_files": 0}
        assert (await client.get(small["url"])).status_code == 404


async def test_a_file_without_a_thumbnail_says_so(client: httpx.AsyncClient) -> None:
    await made(client, artifacts=2)
    (shown,) = (await listed(client))["requests"]
    assert [each["thumbnail"] for each in shown["files"]] == [None, None]
