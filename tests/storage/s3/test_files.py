"""``/files/…`` of a complete ingress over S3."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from blockbuster import blockbuster_ctx

from serve_app.domain.errors import StorageUnavailable
from serve_app.storage.s3.storage import S3Storage
from tests.ingress.house import build_house
from tests.storage.s3.chunks import chunks
from tests.storage.s3_servers import S3Server

KEY = "r/0195/1/abcdefgh.png"
CONTENT = bytes(range(100))


@asynccontextmanager
async def serving(
    server: S3Server, **changes: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, S3Storage]]:
    """Ingress with one stored image."""
    async with server.storage(server.new_bucket(**changes)) as storage, build_house() as house:
        files = replace(house.services.files, storage=storage, tickets=storage.tickets)
        house.app.state.services = replace(house.services, files=files)
        await storage.put(KEY, "image/png", chunks(CONTENT))
        async with house.client() as client:
            yield client, storage


async def test_a_file_comes_through_as_it_would_from_the_directory(server: S3Server) -> None:
    async with serving(server) as (client, _):
        with blockbuster_ctx("serve_app"):
            answer = await client.get(f"/files/{KEY}")
            part = await client.get(f"/files/{KEY}", headers={"Range": "bytes=-5"})
            head = await client.head(f"/files/{KEY}")
            outside = await client.get(f"/files/{KEY}", headers={"Range": "bytes=100-"})
            missing = await client.get("/files/r/0195/1/other.png")
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == head.headers["content-length"] == "100"
    assert answer.headers["etag"] == head.headers["etag"]
    assert answer.headers["content-disposition"].startswith("inline")
    assert (part.status_code, part.content) == (206, CONTENT[-5:])
    assert (outside.status_code, missing.status_code) == (416, 404)


async def test_a_file_that_storage_cannot_read_now_is_no_response_that_breaks_off(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> AsyncIterator[bytes]:
        raise StorageUnavailable("S3 answered s3:GetObject with 503 SlowDown.")
        yield b""

    async with serving(server) as (client, storage):
        monkeypatch.setattr(storage, "read", away)
        answer = await client.get(f"/files/{KEY}")
    assert (answer.status_code, answer.json()["error_type"]) == (503, "storage_unavailable")


@pytest.mark.long
async def test_a_client_that_follows_the_redirect_gets_the_same(server: S3Server) -> None:
    async with serving(server, redirect=True) as (client, storage):
        sent = await client.get(f"/files/{KEY}", headers={"Range": "bytes=2-4"})
        assert sent.status_code == 307
        link = sent.headers["location"]
        assert link.startswith(f"{server.url}/{storage.location.bucket}/art/{KEY}?")
        async with httpx.AsyncClient() as plain:
            whole = await plain.get(link)
            part = await plain.get(link, headers={"Range": "bytes=2-4"})
    assert whole.content == CONTENT
    assert whole.headers["content-type"] == "image/png"
    assert whole.headers["content-disposition"].startswith("inline")
    assert (part.status_code, part.content) == (206, CONTENT[2:5])


async def test_nothing_is_uploaded_through_the_ingress(moto_server: S3Server) -> None:
    async with serving(moto_server) as (client, _):
        assert (await client.put(f"/files/{KEY}", content=b"x")).status_code == 403
        assert (await client.delete(f"/files/{KEY}")).status_code == 403
