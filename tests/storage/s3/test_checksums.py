"""Damaged objects are found: when they are stored, and when they are read as a whole."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.families.base import MediaFile
from deployments.transfer.uploader import Backoff, StorageRetry, Uploader, http_client
from serve_app.domain.errors import ArtifactNotFound, StorageUnavailable
from serve_app.storage.keys import DamagedFile
from serve_app.storage.s3.checksums import ReadCheck
from serve_app.storage.s3.location import Encryption
from serve_app.storage.s3.provider import PROVIDERS
from serve_app.storage.s3.transfer import PART_BYTES
from serve_app.telemetry.clock import SystemClock
from tests.captured_logs import CapturedLogs
from tests.storage.s3.chunks import chunks, content
from tests.storage.s3_servers import S3Server
from tests.storage.strict_s3 import Strict

KEY = "r/0195/1/abc.png"
PNG = "image/png"
AWS = PROVIDERS["aws"]


@pytest.fixture
def strict(moto_server: S3Server) -> Iterator[Strict]:
    assert moto_server.strict is not None
    yield moto_server.strict
    moto_server.strict.damage, moto_server.strict.forget = None, frozenset()


@pytest.fixture
async def uploader() -> AsyncIterator[Uploader]:
    uploader = Uploader(http_client(), SystemClock(), Backoff(Random(1)), 2.0)  # noqa: S311
    yield uploader
    await uploader.aclose()


async def read_into(came: list[int], storage: Any, size: int) -> None:
    async for chunk in storage.read(KEY, 0, size):
        came += [len(chunk)]


@pytest.mark.variants(1)
@pytest.mark.parametrize("checksum", ["sha256", "crc32", "none"])
@pytest.mark.parametrize("size", [5, PART_BYTES + 5])
async def test_an_object_that_was_damaged_on_its_way_in_is_refused(
    moto_server: S3Server, strict: Strict, checksum: str, size: int
) -> None:
    location = moto_server.new_bucket(provider=AWS, checksum=checksum)
    async with moto_server.storage(location) as storage:
        strict.damage = "PUT"
        with pytest.raises(StorageUnavailable):
            await storage.put(KEY, PNG, chunks(os.urandom(size)))
        strict.damage = None
        with pytest.raises(ArtifactNotFound):
            await storage.size(KEY)
        # The same key can be stored afterwards.
        assert await storage.put(KEY, PNG, chunks(b"whole")) == 5


async def test_a_damaged_upload_of_a_replica_is_tried_again_and_not_kept(
    moto_server: S3Server, strict: Strict, uploader: Uploader, caplog: CapturedLogs
) -> None:
    async with moto_server.storage(moto_server.new_bucket(provider=AWS)) as storage:
        ticket = storage.ticket(KEY, PNG, 100, 60)
        strict.damage = "PUT"
        with caplog.at_level("INFO"), pytest.raises(StorageRetry) as given_up:
            await uploader.put(MediaFile(ticket, b"image"))
        # On a slow machine, the time may be over within the last try.
        assert "other bytes than were sent" in f"{caplog.text}{given_up.value}"
        strict.damage = None
        with pytest.raises(ArtifactNotFound):
            await storage.size(KEY)


@pytest.mark.long
@pytest.mark.parametrize("size", [5, PART_BYTES + 5])
async def test_an_object_that_is_damaged_on_its_way_out_never_arrives_whole(
    moto_server: S3Server, strict: Strict, size: int
) -> None:
    async with moto_server.storage(moto_server.new_bucket(provider=AWS)) as storage:
        await storage.put(KEY, PNG, chunks(os.urandom(size)))
        strict.damage = "GET"
        came: list[int] = []
        with pytest.raises(DamagedFile, match="answered with something else"):
            await read_into(came, storage, size)
        assert sum(came) < size


async def test_a_part_of_an_object_is_read_without_its_digest(
    moto_server: S3Server, strict: Strict
) -> None:
    async with moto_server.storage(moto_server.new_bucket(provider=AWS)) as storage:
        await storage.put(KEY, PNG, chunks(b"0123456789"))
        strict.damage = "GET"
        assert await content(storage, KEY, 2, 5) == bytes(3)


async def test_swift_refuses_a_body_that_is_not_the_checksum_s(swift_server: S3Server) -> None:
    location = swift_server.new_bucket()
    client = swift_server.client()
    digest = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="  # of another body
    with pytest.raises(client.exceptions.ClientError, match="BadDigest"):
        client.put_object(Bucket=location.bucket, Key="a", Body=b"hello", ChecksumSHA256=digest)


@pytest.mark.long
@pytest.mark.parametrize("size", [5, PART_BYTES + 5])
@pytest.mark.parametrize("key", [None, "", "arn:aws:kms:eu-west-1:1:key/k"])
async def test_uploads_ask_for_encryption(
    moto_server: S3Server, uploader: Uploader, key: str | None, size: int
) -> None:
    location = moto_server.new_bucket(provider=AWS, encryption=Encryption(key))
    async with moto_server.storage(location) as storage:
        await storage.check()
        await storage.put(KEY, PNG, chunks(bytes(size)))
        await uploader.put(MediaFile(storage.ticket("r/0/1/b.png", PNG, 9, 60), b"image"))
        parts_id = await storage.begin_parts("u/0/c.png", PNG)
        part = await storage.put_part("u/0/c.png", parts_id, 1, chunks(b"part"))
        await storage.join_parts("u/0/c.png", parts_id, {1: part.etag})
        for file_key in (KEY, "r/0/1/b.png", "u/0/c.png"):
            name = location.name(file_key)
            head = moto_server.client().head_object(Bucket=location.bucket, Key=name)
            assert head["ServerSideEncryption"] == ("AES256" if key is None else "aws:kms")
            if key:
                assert head["SSEKMSKeyId"] == key
            assert await content(storage, file_key) in (bytes(size), b"image", b"part")


async def test_an_upload_that_is_not_encrypted_as_asked_is_refused_and_not_kept(
    moto_server: S3Server, strict: Strict, uploader: Uploader
) -> None:
    location = moto_server.new_bucket(provider=AWS, encryption=Encryption())
    strict.forget = frozenset({"x-amz-server-side-encryption"})
    async with moto_server.storage(location) as storage:
        for body in (b"small", bytes(PART_BYTES + 1)):
            with pytest.raises(StorageUnavailable, match="without encrypting it"):
                await storage.put(KEY, PNG, chunks(body))
        with pytest.raises(StorageUnavailable, match="without encrypting it"):
            await storage.check()
        with pytest.raises(StorageUnavailable, match="without encrypting it"):
            await storage.begin_parts("u/0/c.png", PNG)
        with pytest.raises(StorageUnavailable, match="without encrypting it"):
            await uploader.put(MediaFile(storage.ticket(KEY, PNG, 9, 60), b"image"))
        assert [file.key async for file in storage.files()] == []


async def test_a_store_without_encryption_says_so(swift_server: S3Server) -> None:
    async with swift_server.storage(swift_server.new_bucket(encryption=Encryption())) as storage:
        with pytest.raises(StorageUnavailable, match="DARKROOM_S3_ENCRYPTION"):
            await storage.put(KEY, PNG, chunks(b"x"))


@given(
    body=st.binary(max_size=64),
    cuts=st.lists(st.integers(0, 64), max_size=5),
    in_parts=st.booleans(),
    flip=st.booleans(),
)
def test_a_read_matches_its_etag_however_it_is_cut(
    body: bytes, cuts: list[int], in_parts: bool, flip: bool
) -> None:
    part_bytes = 10
    parts: list[bytes] = [body[at : at + part_bytes] for at in range(0, len(body), part_bytes)]
    digests = b"".join(_md5(part).digest() for part in parts)
    in_parts = in_parts and bool(parts)
    etag = f"{_md5(digests).hexdigest()}-{len(parts)}" if in_parts else _md5(body).hexdigest()
    check = ReadCheck(f'"{etag}"', len(body), part_bytes)
    assert check.possible
    came = bytes([body[0] ^ 1]) + body[1:] if flip and body else body
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    for start, end in itertools.pairwise(edges):
        check.update(came[start:end])
    assert check.matches() == (came == body)


@pytest.mark.parametrize("etag", ["", '"x"', '"0123-2"', f'"{"0" * 32}-3"', f'"{"0" * 32}-x"'])
def test_an_etag_that_is_no_digest_is_not_checked(etag: str) -> None:
    assert not ReadCheck(etag, 15, 10).possible


def _md5(body: bytes) -> Any:
    return hashlib.md5(body, usedforsecurity=False)
