"""S3 storage on real servers: behaviour beyond the contract of all storages."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
from blockbuster import blockbuster_ctx

from serve_app.domain.errors import ArtifactNotFound, Forbidden
from serve_app.storage.s3.storage import S3Storage
from serve_app.storage.s3.transfer import PART_BYTES
from tests.storage.s3.chunks import chunks, content
from tests.storage.s3_servers import S3Server

KEY = "r/0195/1/abc.png"
PNG = "image/png"


def describe_object(server: S3Server, storage: S3Storage) -> Any:
    """The object as the store describes it."""
    name = storage.location.name(KEY)
    return server.client().head_object(Bucket=storage.location.bucket, Key=name)


def list_unfinished(server: S3Server, storage: S3Storage) -> list[Any]:
    answer = server.client().list_multipart_uploads(Bucket=storage.location.bucket)
    return answer.get("Uploads", [])


async def test_a_small_object_has_its_type_and_lies_below_the_prefix(
    server: S3Server, storage: S3Storage
) -> None:
    await storage.put(KEY, PNG, chunks(b"abc"))
    assert storage.location.name(KEY) == f"art/{KEY}"
    assert describe_object(server, storage)["ContentType"] == PNG


@pytest.mark.long
@pytest.mark.parametrize("extra", [-1, 0, 1, PART_BYTES + 5])
async def test_an_object_of_several_parts_comes_back_whole(
    server: S3Server, storage: S3Storage, extra: int
) -> None:
    body = os.urandom(PART_BYTES + extra)
    assert await storage.put(KEY, PNG, chunks(body[:100], body[100:])) == len(body)
    assert await content(storage, KEY) == body
    assert (
        await content(storage, KEY, PART_BYTES - 3, PART_BYTES + 3)
        == body[PART_BYTES - 3 : PART_BYTES + 3]
    )
    assert describe_object(server, storage)["ContentType"] == PNG


@pytest.mark.long
async def test_an_object_of_several_parts_never_changes(storage: S3Storage) -> None:
    body = os.urandom(PART_BYTES + 5)
    await storage.put(KEY, PNG, chunks(body))
    assert await storage.put(KEY, PNG, chunks(body)) == len(body)
    with pytest.raises(Forbidden):
        await storage.put(KEY, PNG, chunks(body, b"!"))


async def test_no_parts_stay_of_an_upload_that_breaks_off(
    moto_server: S3Server,
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(2 * PART_BYTES + 1)
        assert list_unfinished(moto_server, storage)
        raise ConnectionResetError

    async with moto_server.storage(moto_server.new_bucket()) as storage:
        with pytest.raises(ConnectionResetError):
            await storage.put(KEY, PNG, broken())
        assert list_unfinished(moto_server, storage) == []
        with pytest.raises(ArtifactNotFound):
            await storage.size(KEY)


async def test_no_parts_stay_of_a_cancelled_upload(moto_server: S3Server) -> None:
    started = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield bytes(2 * PART_BYTES + 1)
        started.set()
        await asyncio.Event().wait()

    async with moto_server.storage(moto_server.new_bucket()) as storage:
        upload = asyncio.create_task(storage.put(KEY, PNG, endless()))
        await started.wait()
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        assert list_unfinished(moto_server, storage) == []


async def test_two_ingresses_cannot_both_write_a_key(moto_server: S3Server) -> None:
    """Two storages with their own locks: only the conditional write separates them."""
    location = moto_server.new_bucket()
    bodies = [bytes([number]) * (PART_BYTES + 1) for number in range(4)]
    async with moto_server.storage(location) as first, moto_server.storage(location) as other:
        results = await asyncio.gather(
            *((first, other)[n % 2].put(KEY, PNG, chunks(body)) for n, body in enumerate(bodies)),
            return_exceptions=True,
        )
        assert [type(result) for result in results if result != PART_BYTES + 1] == [Forbidden] * 3
        assert await content(first, KEY) in bodies


@pytest.mark.long
async def test_without_conditional_writes_one_ingress_still_changes_nothing(
    server: S3Server,
) -> None:
    async with server.storage(server.new_bucket(conditional_writes=False)) as storage:
        await storage.put(KEY, PNG, chunks(b"first"))
        with pytest.raises(Forbidden):
            await storage.put(KEY, PNG, chunks(b"other"))


@pytest.mark.long
async def test_the_check_leaves_nothing_behind(server: S3Server, storage: S3Storage) -> None:
    await storage.check()
    listed = server.client().list_objects_v2(Bucket=storage.location.bucket)
    assert listed["KeyCount"] == 0


@pytest.mark.long
async def test_nothing_blocks_the_event_loop(storage: S3Storage) -> None:
    body = bytes(PART_BYTES + 2**20)
    with blockbuster_ctx("serve_app"):
        storage.ticket(KEY, PNG, 100, 60)
        await storage.put(KEY, PNG, chunks(body))
        assert await storage.size(KEY) == len(body)
        assert len(await content(storage, KEY)) == len(body)
        storage.presigned_get(KEY, PNG, "inline", 60)
        await storage.check()
        await storage.delete([KEY])


@pytest.mark.long
async def test_memory_stays_flat_while_a_large_object_goes_in_and_out(
    s3rver_server: S3Server,
) -> None:
    """The server has its own process, so that only the client is measured."""
    mib = 2**20
    process, piece, count = psutil.Process(), bytes(mib), 192
    peak = start = process.memory_info().rss

    def look() -> None:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(count):
            look()
            yield piece

    async with s3rver_server.storage(s3rver_server.new_bucket()) as storage:
        assert await storage.put(KEY, PNG, pieces()) == count * mib
        came = 0
        async for chunk in storage.read(KEY, 0, count * mib):
            came += len(chunk)
            look()
        assert came == count * mib
        await storage.delete([KEY])
    assert peak - start < 64 * mib
