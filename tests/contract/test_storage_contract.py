"""Contract of every storage, the fake included."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from serve_app.domain.errors import (
    ArtifactNotFound,
    DarkroomError,
    Forbidden,
    InvalidInput,
    TooLarge,
)
from serve_app.storage.directory import DirectoryStorage
from serve_app.storage.locations import LocatedStorage
from serve_app.storage.measured import MeasuredStorage
from serve_app.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.fakes.storage import FakeStorage
from tests.samples import sample_params
from tests.storage.s3_servers import S3Server

KEY = "r/0195/1/abc.png"
PNG = "image/png"
MAX_BYTES = 12 * 2**20

Make = Callable[[], Any]


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def content(storage: Any, key: str, start: int = 0, end: int = 2**40) -> bytes:
    return b"".join([chunk async for chunk in storage.read(key, start, end)])


STORAGES = ["directory", "located", "measured", "fake", "moto", "s3rver", "swift"]


@pytest.fixture(params=sample_params(STORAGES, "directory", "fake", "s3rver"))
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    if request.param == "directory":
        yield DirectoryStorage(tmp_path / "a", b"k" * 32, "http://in", FakeClock(), MAX_BYTES)
    elif request.param == "measured":
        fake = FakeStorage(b"k" * 32, "http://in", FakeClock(), MAX_BYTES)
        yield MeasuredStorage(fake, Metrics(CollectorRegistry()))
    elif request.param == "located":
        own = DirectoryStorage(tmp_path / "a", b"k" * 32, "http://in", FakeClock(), MAX_BYTES)
        yield LocatedStorage(own, {})
    elif request.param == "fake":
        yield FakeStorage(b"k" * 32, "http://in", FakeClock(), MAX_BYTES)
    else:
        server: S3Server = request.getfixturevalue(f"{request.param}_server")
        async with server.storage(server.new_bucket(), MAX_BYTES) as storage:
            yield storage


async def test_what_was_put_can_be_read(storage: Any) -> None:
    assert await storage.put(KEY, PNG, chunks(b"ab", b"", b"cd")) == 4
    assert await storage.size(KEY) == 4
    assert await content(storage, KEY) == b"abcd"


async def test_a_part_can_be_read(storage: Any) -> None:
    await storage.put(KEY, PNG, chunks(b"0123456789"))
    assert await content(storage, KEY, 2, 5) == b"234"
    assert await content(storage, KEY, 8, 50) == b"89"


async def test_a_look_at_an_object_tells_its_size_and_may_show_its_beginning(storage: Any) -> None:
    await storage.put(KEY, "image/png", chunks(b"0123456789"))
    assert await storage.head(KEY, 0) == (10, b"")
    for most in (4, 10, 99):
        size, beginning = await storage.head(KEY, most)
        assert size == 10
        assert beginning in (b"", b"0123456789"[:most])
    with pytest.raises(ArtifactNotFound):
        await storage.head("r/0195/1/other.png", 4)


async def test_an_empty_object_is_an_object(storage: Any) -> None:
    assert await storage.put(KEY, PNG, chunks()) == 0
    assert await storage.size(KEY) == 0


async def test_a_large_object_comes_back_whole(storage: Any) -> None:
    large = bytes(range(256)) * 12_000
    await storage.put(
        KEY, PNG, chunks(*(large[at : at + 65_536] for at in range(0, len(large), 65_536)))
    )
    assert await content(storage, KEY) == large


async def test_a_missing_object_is_reported(storage: Any) -> None:
    with pytest.raises(ArtifactNotFound):
        await storage.size(KEY)
    with pytest.raises(ArtifactNotFound):
        await content(storage, KEY)


async def test_an_upload_that_breaks_off_leaves_nothing(storage: Any) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(Exception):  # noqa: B017, PT011  each storage names the cause in its way
        await storage.put(KEY, PNG, broken())
    with pytest.raises(ArtifactNotFound):
        await storage.size(KEY)


async def test_an_upload_over_the_limit_leaves_nothing(storage: Any) -> None:
    with pytest.raises(TooLarge):
        await storage.put(KEY, PNG, chunks(*[bytes(2**20)] * 13))
    with pytest.raises(ArtifactNotFound):
        await storage.size(KEY)


async def test_the_same_upload_twice_is_no_error(storage: Any) -> None:
    await storage.put(KEY, PNG, chunks(b"same"))
    assert await storage.put(KEY, PNG, chunks(b"same")) == 4


async def test_an_object_never_changes(storage: Any) -> None:
    await storage.put(KEY, PNG, chunks(b"first"))
    with pytest.raises(Forbidden):
        await storage.put(KEY, PNG, chunks(b"other"))
    assert await content(storage, KEY) == b"first"


async def test_many_uploads_of_one_key_at_once_leave_one_whole_object(storage: Any) -> None:
    bodies = [bytes([number]) * 100_000 for number in range(8)]
    results = await asyncio.gather(
        *(storage.put(KEY, PNG, chunks(body)) for body in bodies), return_exceptions=True
    )
    assert sum(result == 100_000 for result in results) == 1
    assert await content(storage, KEY) in bodies


async def test_deleting_is_for_good_and_may_be_repeated(storage: Any) -> None:
    await storage.put(KEY, PNG, chunks(b"x"))
    await storage.delete([KEY, "r/never/was.png"])
    await storage.delete([KEY])
    with pytest.raises(ArtifactNotFound):
        await storage.size(KEY)


async def test_a_working_storage_passes_its_check(storage: Any) -> None:
    await storage.check()


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/.hidden", "a\0b", "a/"]
)
async def test_a_key_that_is_no_name_of_ours_is_never_touched(storage: Any, key: str) -> None:
    with pytest.raises(ArtifactNotFound):
        await storage.put(key, PNG, chunks(b"x"))
    with pytest.raises(ArtifactNotFound):
        await storage.size(key)
    await storage.delete([key])


def test_a_ticket_is_for_its_key_type_and_size(storage: Any) -> None:
    ticket = storage.ticket(KEY, PNG, 123, 60)
    assert (ticket.key, ticket.media_type, ticket.max_bytes) == (KEY, PNG, 123)
    assert ticket.url.partition("?")[0].endswith("/r/0195/1/abc.png")
    assert dict(ticket.headers)["content-type"] == PNG


def test_unless_asked_for_no_client_is_sent_elsewhere(storage: Any) -> None:
    assert storage.link(KEY, PNG, "inline", 60) is None


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None
)
@given(key=st.text(alphabet=st.sampled_from("ab./\\\0%~-_é\n "), max_size=24))
def test_no_key_reaches_outside_of_the_directory(tmp_path: Path, key: str) -> None:
    around = Path(tempfile.mkdtemp(dir=tmp_path))
    root = around / "root"
    storage = DirectoryStorage(root, b"k" * 32, "http://in", FakeClock())

    async def put() -> None:
        await storage.put(key, PNG, chunks(b"x"))

    try:
        asyncio.run(put())
    except ArtifactNotFound:
        pass
    else:
        assert (root / key).resolve().is_relative_to(root.resolve())
    assert [path for path in around.iterdir() if path != root] == []


# Uploads in parts. S3 needs at least 5 MiB for each part but the last.
FIVE = bytes(range(256)) * (5 * 2**12)
SIX = b"six!" * (6 * 2**18)


async def test_parts_that_come_in_any_order_become_one_object(storage: Any) -> None:
    parts_id = await storage.begin_parts(KEY, PNG)
    last = await storage.put_part(KEY, parts_id, 3, chunks(b"the ", b"end"))
    first, second = await asyncio.gather(
        storage.put_part(KEY, parts_id, 1, chunks(FIVE)),
        storage.put_part(KEY, parts_id, 2, chunks(SIX)),
    )
    assert (first.number, first.size, last.size) == (1, len(FIVE), 7)
    with pytest.raises(ArtifactNotFound):
        await storage.size(KEY)
    etags = {part.number: part.etag for part in (last, first, second)}
    assert await storage.join_parts(KEY, parts_id, etags) == len(FIVE) + len(SIX) + 7
    assert await content(storage, KEY) == FIVE + SIX + b"the end"


async def test_an_empty_file_in_parts_is_an_object(storage: Any) -> None:
    parts_id = await storage.begin_parts(KEY, PNG)
    part = await storage.put_part(KEY, parts_id, 1, chunks())
    assert await storage.join_parts(KEY, parts_id, {1: part.etag}) == 0
    assert await storage.size(KEY) == 0


all_but_s3rver = pytest.mark.parametrize(
    "storage",
    sample_params(["directory", "fake", "moto", "swift"], "directory", "fake"),
    indirect=True,
)
"""s3rver checks no ETags (the ingress does, for every storage), and does not know abort."""


@all_but_s3rver
async def test_a_part_that_comes_again_takes_the_place_of_the_first(storage: Any) -> None:
    parts_id = await storage.begin_parts(KEY, PNG)
    old = await storage.put_part(KEY, parts_id, 1, chunks(b"old"))
    new = await storage.put_part(KEY, parts_id, 1, chunks(b"new"))
    assert old.etag != new.etag
    with pytest.raises(InvalidInput, match="upload it again"):
        await storage.join_parts(KEY, parts_id, {1: old.etag})
    assert await storage.join_parts(KEY, parts_id, {1: new.etag}) == 3
    assert await content(storage, KEY) == b"new"


@all_but_s3rver
async def test_parts_that_are_not_there_are_reported(storage: Any) -> None:
    parts_id = await storage.begin_parts(KEY, PNG)
    part = await storage.put_part(KEY, parts_id, 1, chunks(b"x"))
    for etags in ({1: part.etag, 2: part.etag}, {1: "../../x"}, {1: "0" * 32}):
        with pytest.raises(InvalidInput, match="upload it again"):
            await storage.join_parts(KEY, parts_id, etags)
    assert await storage.join_parts(KEY, parts_id, {1: part.etag}) == 1


async def test_a_part_that_breaks_off_leaves_nothing(storage: Any) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    parts_id = await storage.begin_parts(KEY, PNG)
    part = await storage.put_part(KEY, parts_id, 1, chunks(b"whole"))
    with pytest.raises(Exception):  # noqa: B017, PT011  each storage names the cause in its way
        await storage.put_part(KEY, parts_id, 1, broken())
    assert await storage.join_parts(KEY, parts_id, {1: part.etag}) == 5


@all_but_s3rver
async def test_an_upload_in_parts_that_was_dropped_is_no_more(storage: Any) -> None:
    parts_id = await storage.begin_parts(KEY, PNG)
    part = await storage.put_part(KEY, parts_id, 1, chunks(b"x"))
    await storage.drop_parts(KEY, parts_id)
    await storage.drop_parts(KEY, parts_id)
    with pytest.raises(DarkroomError):
        await storage.join_parts(KEY, parts_id, {1: part.etag})
    with pytest.raises(ArtifactNotFound):
        await storage.size(KEY)
