"""The mark of a file is still there on each way by which the file leaves."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from mcp_types import ImageContent

from serve_app.domain.artifact import Artifact
from serve_app.domain.media.marking import TRAINED_ALGORITHMIC_MEDIA
from serve_app.domain.outcome import Outcome
from serve_app.ingress.mcp.content import final_result
from tests.ingress.api.test_gallery import list_requests, run_request
from tests.ingress.api.test_shares import anonymous, share_request
from tests.ingress.api.test_zip_files import URL as ZIP
from tests.ingress.api.test_zip_files import open_zip
from tests.ingress.house import House

MARKED = f"pixels {TRAINED_ALGORITHMIC_MEDIA}"
BYTES = MARKED.encode()
BODY: dict[str, Any] = {"artifacts": 1, "content": MARKED, "thumbnails": True}

Way = Callable[[House, httpx.AsyncClient], Awaitable[list[bytes]]]


async def by_url(house: House, client: httpx.AsyncClient) -> list[bytes]:
    await run_request(client, **BODY)
    (file,) = (await list_requests(client))["requests"][0]["files"]
    urls = (file["url"], file["thumbnail"]["url"])
    return [(await client.get(url)).content for url in urls]


async def by_range(house: House, client: httpx.AsyncClient) -> list[bytes]:
    await run_request(client, **BODY)
    (file,) = (await list_requests(client))["requests"][0]["files"]
    ranges = ("bytes=0-9", "bytes=10-")
    parts = [
        (await client.get(file["url"], headers={"range": byte_range})).content
        for byte_range in ranges
    ]
    return [b"".join(parts)]


async def by_data_uri(house: House, client: httpx.AsyncClient) -> list[bytes]:
    answer = await client.post("/run/test/probe", json={**BODY, "sync_mode": True})
    uri = answer.json()["images"][0]["url"]
    return [base64.b64decode(uri.partition(",")[2])]


async def by_zip(house: House, client: httpx.AsyncClient) -> list[bytes]:
    id_ = await run_request(client, **BODY)
    archive = open_zip((await client.post(ZIP, json={"request_ids": [id_]})).content)
    return [archive.read(member) for member in archive.infolist()]


async def by_share_link(house: House, client: httpx.AsyncClient) -> list[bytes]:
    link = await share_request(client, await run_request(client, **BODY))
    async with anonymous(house) as guest:
        (file,) = (await guest.get(link["url"])).json()["files"]
        return [(await guest.get(part["url"])).content for part in (file, file["thumbnail"])]


async def by_mcp(house: House, client: httpx.AsyncClient) -> list[bytes]:
    (request,) = await house.queue.gallery.several("default", [await run_request(client, **BODY)])
    assert request.outcome is not None
    (artifact,) = request.outcome.artifacts
    shown = Artifact(artifact.key, "image/png", artifact.size, artifact.sha256)
    object.__setattr__(request, "outcome", Outcome(output={}, artifacts=(shown,)))
    result = await final_result(house.services.files, request, "http://in")
    return [base64.b64decode(x.data) for x in result.content if isinstance(x, ImageContent)]


@pytest.mark.parametrize("way", [by_url, by_range, by_data_uri, by_zip, by_share_link, by_mcp])
async def test_a_file_leaves_with_its_mark(house: House, way: Way) -> None:
    async with house.client() as client:
        received = await way(house, client)
    assert received
    assert all(content == BYTES for content in received)
