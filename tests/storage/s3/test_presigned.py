"""Presigned URLs, used by a plain HTTP client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from urllib.parse import urlsplit

import httpx
import pytest

from deployments.families.base import MediaFile
from deployments.transfer.uploader import Backoff, Uploader, http_client
from serve_app.domain.errors import ArtifactNotFound, StorageUnavailable
from serve_app.storage.s3.storage import S3Storage
from serve_app.telemetry.clock import SystemClock
from tests.storage.s3.chunks import chunks, content
from tests.storage.s3_servers import S3Server

KEY = "r/0195/1/abc.png"
PNG = "image/png"


@pytest.fixture
async def uploader() -> AsyncIterator[Uploader]:
    uploader = Uploader(http_client(), SystemClock(), Backoff(Random(1)), 5.0)  # noqa: S311
    yield uploader
    await uploader.aclose()


async def test_a_replica_uploads_by_its_ticket_and_takes_it_back(
    storage: S3Storage, uploader: Uploader
) -> None:
    ticket = storage.ticket(KEY, PNG, 100, 60)
    await uploader.put(MediaFile(ticket, b"image"))
    assert await content(storage, KEY) == b"image"
    await uploader.delete(ticket)
    with pytest.raises(ArtifactNotFound):
        await storage.size(KEY)


async def test_a_ticket_writes_no_second_time(moto_server: S3Server, uploader: Uploader) -> None:
    async with moto_server.storage(moto_server.new_bucket()) as storage:
        ticket = storage.ticket(KEY, PNG, 100, 60)
        await uploader.put(MediaFile(ticket, b"image"))
        with pytest.raises(StorageUnavailable, match="412"):
            await uploader.put(MediaFile(ticket, b"another"))
        assert await content(storage, KEY) == b"image"


async def test_a_ticket_is_for_its_key_and_type_alone(moto_server: S3Server) -> None:
    async with (
        moto_server.storage(moto_server.new_bucket()) as storage,
        httpx.AsyncClient() as client,
    ):
        ticket = storage.ticket(KEY, PNG, 100, 60)
        headers = dict(ticket.headers)
        for url, sent_headers in (
            (ticket.url.replace("abc.png", "xyz.png"), headers),
            (ticket.url, {**headers, "content-type": "text/html"}),
            (ticket.url, {"content-type": PNG}),  # without the condition
        ):
            assert (await client.put(url, content=b"x", headers=sent_headers)).status_code == 403
        # The URL allows neither reading nor deleting.
        assert (await client.get(ticket.url)).status_code == 403
        assert (await client.delete(ticket.url)).status_code == 403


async def test_a_ticket_ends_with_its_time(moto_server: S3Server) -> None:
    async with (
        moto_server.storage(moto_server.new_bucket()) as storage,
        httpx.AsyncClient() as client,
    ):
        ticket = storage.ticket(KEY, PNG, 100, -5)
        answer = await client.put(ticket.url, content=b"x", headers=dict(ticket.headers))
    assert (answer.status_code, "expired" in answer.text.lower()) == (403, True)


async def test_a_damaged_upload_is_refused(moto_server: S3Server) -> None:
    async with (
        moto_server.storage(moto_server.new_bucket()) as storage,
        httpx.AsyncClient() as client,
    ):
        ticket = storage.ticket(KEY, PNG, 100, 60)
        headers = {**dict(ticket.headers), "content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}
        answer = await client.put(ticket.url, content=b"not empty", headers=headers)
        assert answer.status_code == 400
        with pytest.raises(ArtifactNotFound):
            await storage.size(KEY)


@pytest.mark.long
async def test_a_link_serves_the_type_and_the_disposition_that_the_ingress_would(
    storage: S3Storage,
) -> None:
    await storage.put(KEY, "application/octet-stream", chunks(b"0123456789"))
    link = storage.presigned_get(KEY, PNG, "inline; filename*=UTF-8''abc.png", 60)
    async with httpx.AsyncClient() as client:
        answer = await client.get(link)
        part = await client.get(link, headers={"range": "bytes=2-4"})
    assert answer.content == b"0123456789"
    assert answer.headers["content-type"] == PNG
    assert answer.headers["content-disposition"] == "inline; filename*=UTF-8''abc.png"
    assert "immutable" in answer.headers["cache-control"]
    assert (part.status_code, part.content) == (206, b"234")


@pytest.mark.long
async def test_a_private_file_is_not_cached_behind_its_link(storage: S3Storage) -> None:
    key = "p/rules/u/abc/a.png"
    await storage.put(key, PNG, chunks(b"0123456789"))
    async with httpx.AsyncClient() as client:
        answer = await client.get(storage.presigned_get(key, PNG, "inline", 60))
    assert answer.headers["cache-control"] == "private, no-store"


async def test_clients_are_sent_to_the_public_endpoint_and_replicas_to_the_inner_one(
    moto_server: S3Server,
) -> None:
    # The same server under another name, which is part of the signature.
    public = moto_server.url.replace("127.0.0.1", "localhost")
    location = moto_server.new_bucket(public_endpoint_url=public, redirect=True)
    async with moto_server.storage(location) as storage, httpx.AsyncClient() as client:
        await storage.put(KEY, PNG, chunks(b"abc"))
        link = storage.link(KEY, PNG, "inline", 60)
        assert link is not None
        assert urlsplit(link).hostname == "localhost"
        assert (await client.get(link)).content == b"abc"
        assert urlsplit(storage.ticket(KEY, PNG, 9, 60).url).hostname == "127.0.0.1"
