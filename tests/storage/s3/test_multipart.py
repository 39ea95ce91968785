"""Client uploads through a complete ingress to S3."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from blockbuster import blockbuster_ctx

from serve_app.ingress.services.file_collector import FileCollector
from serve_app.queue.transactions.uploads import ABANDONED_S
from serve_app.storage.s3.storage import S3Storage
from tests.fakes.clock import FakeClock
from tests.ingress.house import House, build_house
from tests.storage.s3_servers import S3Server

FIVE_MIB = bytes(range(256)) * (5 * 2**12)
NAME = {"content-type": "video/mp4", "x-fal-file-name": "video.mp4"}


@asynccontextmanager
async def serving(
    server: S3Server, clock: FakeClock, spool: Path
) -> AsyncIterator[tuple[httpx.AsyncClient, S3Storage, House]]:
    storage = S3Storage(server.new_bucket(), server.key, spool=spool)
    await storage.start()
    try:
        async with (
            build_house(storage=storage, clock=clock, replica=False) as house,
            house.client() as client,
        ):
            yield client, storage, house
    finally:
        await storage.aclose()


def there(server: S3Server, storage: S3Storage) -> list[str]:
    """Names of the objects in the bucket."""
    answer = server.client().list_objects_v2(Bucket=storage.location.bucket)
    return [item["Key"] for item in answer.get("Contents", [])]


async def test_a_file_at_once(server: S3Server, tmp_path: Path) -> None:
    async with serving(server, FakeClock(), tmp_path / "spool") as (client, storage, _):
        with blockbuster_ctx("serve_app"):
            answer = await client.post("/cdn/files/upload", content=b"abc", headers=NAME)
            read = await client.get(answer.json()["access_url"])
        assert (read.content, read.headers["content-type"]) == (b"abc", "video/mp4")
        (name,) = there(server, storage)
    assert name.startswith("art/u/")
    assert name.endswith("/video.mp4")


@pytest.mark.long
async def test_a_file_in_parts_is_a_multipart_upload_of_s3(
    server: S3Server, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    async with serving(server, FakeClock(), spool) as (client, _, _):
        with blockbuster_ctx("serve_app"):
            begun = (await client.post("/cdn/files/upload/multipart", headers=NAME)).json()
            url = f"{begun['access_url']}/multipart/{begun['uploadId']}"
            parts: list[dict[str, Any]] = []
            for number, content in ((2, b"the end"), (1, FIVE_MIB)):
                stored = await client.put(f"{url}/{number}", content=content)
                assert stored.headers["etag"] == stored.json()["etag"]
                parts.append(stored.json())
            wrong = {"parts": [{"partNumber": 1, "etag": "another"}]}
            assert (await client.post(f"{url}/complete", json=wrong)).status_code == 422
            for _ in range(2):
                joined = await client.post(f"{url}/complete", json={"parts": parts})
                assert joined.json()["file_size"] == len(FIVE_MIB) + 7
            part = await client.get(begun["access_url"], headers={"range": "bytes=5242878-"})
    assert part.content == FIVE_MIB[-2:] + b"the end"
    assert left_in(spool) == []


@pytest.mark.parametrize("server", ["moto"], indirect=True)  # s3rver does not support abort
async def test_parts_that_are_never_joined_are_aborted(server: S3Server, tmp_path: Path) -> None:
    clock = FakeClock()
    async with serving(server, clock, tmp_path / "spool") as (client, storage, house):
        place = await client.post("/rest/storage/upload/initiate-multipart", json={})
        await client.put(f"{place.json()['upload_url']}/1", content=b"x")
        assert count_unfinished(server, storage) == 1
        clock.advance(ABANDONED_S + 1)
        await FileCollector(house.uploads, storage).delete_garbage_uploads()
        assert count_unfinished(server, storage) == 0
        assert there(server, storage) == []


def count_unfinished(server: S3Server, storage: S3Storage) -> int:
    answer = server.client().list_multipart_uploads(Bucket=storage.location.bucket)
    return len(answer.get("Uploads", []))


def left_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())
