"""Files of many requests as one archive."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from uuid import UUID

import httpx
import pytest

from serve_app.domain.artifact import Artifact
from serve_app.domain.errors import ArtifactNotFound
from serve_app.domain.request import Priority, Request, State
from serve_app.ingress.api.gallery import zip_files
from serve_app.ingress.api.gallery.zip_files import MISSING, ZipEntry, write_archive
from tests.fakes.upload_policies import sign_policy
from tests.ingress.api.test_gallery import run_request
from tests.ingress.house import House, build_house

URL = "/v1/requests/zip"
NAME = re.compile(r"\d{4}-\d\d-\d\d_\d{6}_[0-9a-f-]{36}_\d{3}_[\w.-]+\.\w+")


def open_zip(body: bytes) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(io.BytesIO(body))
    assert archive.testzip() is None
    return archive


async def test_the_files_of_many_requests_come_as_one_archive_in_their_order(
    house: House,
) -> None:
    async with house.client() as client, house.client(house.other_key) as other:
        first = await run_request(client, artifacts=2, content="one", thumbnails=True)
        two = await run_request(client, artifacts=1, content="two")
        foreign = await run_request(other, artifacts=1, content="foreign")
        answer = await client.post(URL, json={"request_ids": [two, first, two, foreign]})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    assert re.fullmatch(
        r'attachment; filename="darkroom-[\d-]+\.zip"', answer.headers["content-disposition"]
    )
    archive = open_zip(answer.content)
    *files, last = archive.infolist()
    assert [archive.read(file) for file in files] == [b"one", b"one", b"two"]
    assert [file.filename for file in files] == sorted(file.filename for file in files)
    assert all(NAME.fullmatch(file.filename) for file in files)
    assert all(file.compress_type == zipfile.ZIP_STORED for file in files)
    assert (last.filename, archive.read(last).decode()) == (MISSING, f"request {foreign}\n")


async def test_a_file_that_is_gone_is_named(house: House) -> None:
    async with house.client() as client:
        stored = await run_request(client, artifacts=1, content="one")
        gone = await run_request(client, artifacts=1, content="gone")
        (request,) = await house.queue.gallery.several("default", [gone])
        assert request.outcome is not None
        await house.storage.delete([artifact.key for artifact in request.outcome.artifacts])
        archive = open_zip((await client.post(URL, json={"request_ids": [stored, gone]})).content)
    first, last = archive.infolist()
    assert archive.read(first) == b"one"
    assert last.filename == MISSING
    assert gone in archive.read(last).decode()


async def test_without_any_file_there_is_no_archive(client: httpx.AsyncClient) -> None:
    body = {"request_ids": [await run_request(client), str(UUID(int=1))]}
    answer = await client.post(URL, json=body)
    assert answer.status_code == 404
    assert "None of these requests has files" in answer.text


async def test_too_many_bytes_are_refused(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_files, "MAX_ZIP_BYTES", 5)
    body = {"request_ids": [await run_request(client, artifacts=2, content="one")]}
    answer = await client.post(URL, json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "request_ids"]
    assert "6 bytes" in answer.text


class LargeFiles:
    """Storage whose files are made while they are read."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        self.read_ahead = 0  # chunks that were read and not taken yet
        self.closed = 0

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        if key == "gone":
            raise ArtifactNotFound("gone")
        try:
            for _ in range(self._chunks):
                self.read_ahead += 1
                yield bytes(1 << 16)
        finally:
            self.closed += 1


def entry(key: str, size: int) -> ZipEntry:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    request = Request("0190", "t", "e", "p", State.SUCCEEDED, {}, Priority.NORMAL, 1, 0, at)
    return ZipEntry(key, Artifact(key, "image/png", size, ""), request)


async def test_no_more_than_a_chunk_is_held() -> None:
    storage = LargeFiles(chunks=100)
    entries = [entry("one", 100 << 16), entry("gone", 1), entry("two", 100 << 16)]
    total = 0
    async for part in write_archive(storage, entries, []):
        assert storage.read_ahead <= 1
        assert len(part) < (1 << 16) + 1000
        storage.read_ahead = 0
        total += len(part)
    assert total > 200 << 16
    assert storage.closed == 2


async def test_a_client_that_leaves_ends_the_reading() -> None:
    storage = LargeFiles(chunks=100)
    archive = write_archive(storage, [entry("one", 100 << 16)], [])
    await anext(archive)
    await archive.aclose()
    assert storage.closed == 1


async def names(host: str, port: int) -> Sequence[str]:
    del host, port
    return ["52.219.1.1"]


async def test_a_file_in_the_bucket_of_its_client_is_named_by_its_url() -> None:
    headers = {"x-app-fal-upload-policy": json.dumps(sign_policy())}
    async with build_house(names=names) as house, house.client() as client:
        body = {"prompt": "a circle", "output_format": "png"}
        answer = await client.post("/run/fal-ai/flux/schnell", json=body, headers=headers)
        elsewhere, url = answer.headers["x-fal-request-id"], answer.json()["images"][0]["url"]
        stored = await run_request(client, artifacts=1, content="one")
        both = open_zip((await client.post(URL, json={"request_ids": [stored, elsewhere]})).content)
        alone = await client.post(URL, json={"request_ids": [elsewhere]})
    (first, missing) = both.infolist()
    assert both.read(first) == b"one"
    assert (missing.filename, both.read(missing).decode()) == (MISSING, f"{url}\n")
    assert (alone.status_code, "stored here" in alone.text) == (404, True)
