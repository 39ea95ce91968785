"""Objects in locations of tenants beside those of the installation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.errors import ArtifactNotFound, StorageUnavailable
from serve_app.storage import keys
from serve_app.storage.directory import DirectoryStorage
from serve_app.storage.locations import LocatedStorage
from serve_app.storage.s3.storage import S3Storage
from tests.fakes.clock import FakeClock
from tests.storage.s3.chunks import chunks, content
from tests.storage.s3_servers import S3Server

PNG = "image/png"
REQUEST = "0195aaaa-0000-7000-8000-000000000000"


@pytest.fixture
async def storage(tmp_path: Path, moto_server: S3Server) -> AsyncIterator[LocatedStorage]:
    own = DirectoryStorage(tmp_path / "a", b"k" * 32, "http://in", FakeClock())
    locations = {
        id_: S3Storage(replace(moto_server.new_bucket(), location_id=id_), moto_server.key)
        for id_ in ("acme", "borg")
    }
    storage = LocatedStorage(own, locations)
    await storage.start()
    yield storage
    await storage.aclose()


def key_in(location: str) -> str:
    return keys.artifact_key(REQUEST, 1, PNG, location=location)


async def test_each_object_lies_where_its_key_says(storage: LocatedStorage) -> None:
    own, acme, borg = (key_in(location) for location in ("", "acme", "borg"))
    for key in (own, acme, borg):
        await storage.put(key, PNG, chunks(key.encode()))
        assert await content(storage, key) == key.encode()
        assert await storage.size(key) == len(key)
    assert [file.key async for file in storage.own.files()] == [own]
    assert [file.key async for file in storage.locations["acme"].files()] == [acme]
    assert [file.key async for file in storage.files()] == sorted([own, acme, borg])
    assert storage.locations["acme"].location.bucket in storage.ticket(acme, PNG, 9, 60).url
    assert "/files/" in storage.ticket(own, PNG, 9, 60).url
    await storage.delete([own, acme])
    assert [file.key async for file in storage.files()] == [borg]


async def test_an_upload_in_parts_goes_to_its_location(storage: LocatedStorage) -> None:
    key = keys.upload_key(PNG, "cat.png", location="acme")
    parts_id = await storage.begin_parts(key, PNG)
    part = await storage.put_part(key, parts_id, 1, chunks(b"part"))
    assert await storage.join_parts(key, parts_id, {1: part.etag}) == 4
    assert await content(storage.locations["acme"], key) == b"part"
    dropped = await storage.begin_parts(key, PNG)
    await storage.drop_parts(key, dropped)


async def test_a_location_that_is_gone_from_the_file_is_named_and_nothing_goes_elsewhere(
    storage: LocatedStorage,
) -> None:
    key = key_in("gone")
    with pytest.raises(StorageUnavailable, match=r"location gone .* not in DARKROOM_STORAGE"):
        await storage.put(key, PNG, chunks(b"x"))
    with pytest.raises(StorageUnavailable, match="location gone"):
        storage.ticket(key, PNG, 9, 60)
    assert [file.key async for file in storage.files()] == []


async def test_what_can_be_deleted_is_deleted_if_a_location_fails(storage: LocatedStorage) -> None:
    own = key_in("")
    await storage.put(own, PNG, chunks(b"x"))
    with pytest.raises(StorageUnavailable, match="location gone"):
        await storage.delete([key_in("gone"), own])
    with pytest.raises(ArtifactNotFound):
        await storage.size(own)


async def test_a_location_that_cannot_be_opened_stops_only_its_own_files(
    tmp_path: Path, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("HOME", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    own = DirectoryStorage(tmp_path / "a", b"k" * 32, "http://in", FakeClock())
    closed = S3Storage(replace(moto_server.new_bucket(), location_id="acme"), None)
    storage = LocatedStorage(own, {"acme": closed})
    await storage.start()
    try:
        await storage.check()
        assert await storage.put(key_in(""), PNG, chunks(b"x")) == 1
        with pytest.raises(StorageUnavailable, match="location acme cannot be used: No cred"):
            await storage.put(key_in("acme"), PNG, chunks(b"x"))
        with pytest.raises(StorageUnavailable, match="location acme cannot be listed"):
            [file async for file in storage.files()]
    finally:
        await storage.aclose()


LOCATIONS = st.from_regex(r"[a-z][a-z0-9-]{1,31}", fullmatch=True) | st.just("")


@given(location=LOCATIONS, name=st.text(max_size=20), media_type=st.sampled_from([PNG, "x/y"]))
def test_a_key_says_its_location_whatever_the_file_is_called(
    location: str, name: str, media_type: str
) -> None:
    file_keys = [
        keys.artifact_key(REQUEST, 2, media_type, location=location),
        keys.snapshot_key(REQUEST, 2, location=location),
        keys.upload_key(keys.upload_type(media_type, name), name, location=location),
    ]
    for key in file_keys:
        assert keys.valid(key)
        assert keys.location_id(key) == location
    assert keys.media_type_of(file_keys[0]) == (
        PNG if media_type == PNG else keys.DEFAULT_MEDIA_TYPE
    )


@pytest.mark.parametrize(
    "key",
    [
        "r/0195/1/abc.png",
        "u/abc/cat.acme.png",
        "u/abc/cat.png",
        "check/abc.acme.bin",
        "r/0195/1/a.b/c.acme.png",
    ],
)
def test_other_dots_are_no_locations(key: str) -> None:
    assert keys.location_id(key) == ""


async def test_keys_of_before_locations_are_found_where_they_were(storage: LocatedStorage) -> None:
    await storage.own.put("r/0195/1/old.png", PNG, chunks(b"old"))
    assert await content(storage, "r/0195/1/old.png") == b"old"
