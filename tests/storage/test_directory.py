from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from serve_app.domain.errors import (
    ArtifactNotFound,
    InvalidInput,
    NotFound,
    StorageFull,
    StorageUnavailable,
)
from serve_app.storage.blocking import CHUNK_BYTES
from serve_app.storage.directory import DirectoryStorage
from tests.fakes.clock import FakeClock

KEY = "r/0195/1/abc.png"


@pytest.fixture
def storage(tmp_path: Path) -> DirectoryStorage:
    return DirectoryStorage(tmp_path, b"k" * 32, "http://in", FakeClock())


def below(directory: Path) -> list[Path]:
    return list(directory.rglob("*"))


async def test_deleting_takes_what_a_killed_process_left_and_empty_folders(
    storage: DirectoryStorage, tmp_path: Path
) -> None:
    await storage.put("u/abc/cat.png", "image/png", chunks(b"x"))
    left = tmp_path / "u" / "abc" / ".cat.png.0123456789abcdef.part"
    left.write_bytes(b"half")
    await storage.delete(["u/abc/cat.png"])
    assert below(tmp_path) == []


async def test_other_users_cannot_read_what_is_stored(tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    root.mkdir(mode=0o755)
    storage = DirectoryStorage(root, b"k" * 32, "http://in", FakeClock())
    await storage.start()
    assert root.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(root)
    await storage.start()
    assert root.stat().st_mode & 0o777 == 0o700


async def test_a_folder_is_no_file(storage: DirectoryStorage) -> None:
    await storage.put(KEY, "image/png", chunks(b"x"))
    for folder in ("r", "r/0195", "r/0195/1"):
        with pytest.raises(ArtifactNotFound):
            await storage.size(folder)


async def test_nothing_of_an_upload_in_parts_stays_behind(
    storage: DirectoryStorage, tmp_path: Path
) -> None:
    joined = await storage.begin_parts("u/abc/a.bin", "x")
    dropped = await storage.begin_parts("u/abc/b.bin", "x")
    part = await storage.put_part("u/abc/a.bin", joined, 1, chunks(b"x"))
    await storage.put_part("u/abc/b.bin", dropped, 1, chunks(b"y"))
    await storage.join_parts("u/abc/a.bin", joined, {1: part.etag})
    await storage.drop_parts("u/abc/b.bin", dropped)
    assert files_below(tmp_path) == [tmp_path / "u" / "abc" / "a.bin"]


async def test_a_part_that_ends_after_its_upload_is_not_found(
    storage: DirectoryStorage, tmp_path: Path
) -> None:
    parts_id = await storage.begin_parts("u/abc/a.bin", "x")

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * CHUNK_BYTES
        yield b"y" * CHUNK_BYTES  # the first one is in a file now
        await storage.drop_parts("u/abc/a.bin", parts_id)
        yield b"z"

    with pytest.raises(NotFound):
        await storage.put_part("u/abc/a.bin", parts_id, 1, slow())
    assert files_below(tmp_path) == []


async def test_parts_that_another_call_joins_at_this_moment_are_missing(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts_id = await storage.begin_parts("u/abc/a.bin", "x")
    part = await storage.put_part("u/abc/a.bin", parts_id, 1, chunks(b"x"))

    def late(folder: Path) -> list[str]:
        monkeypatch.undo()
        shutil.rmtree(folder)  # what the other call does, as late as it can
        return [entry.name for entry in folder.iterdir()]

    monkeypatch.setattr("os.listdir", late)
    monkeypatch.setattr("os.scandir", late)
    with pytest.raises(InvalidInput):
        await storage.join_parts("u/abc/a.bin", parts_id, {1: part.etag})


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


async def test_a_full_disk_is_reported_as_such(
    storage: DirectoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match="disk that holds the artifacts is full"):
        await storage.put(KEY, "image/png", chunks(b"x"))
    assert files_below(tmp_path) == []


async def test_a_directory_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    storage = DirectoryStorage(tmp_path / "file", b"k" * 32, "http://in", FakeClock())
    with pytest.raises(StorageUnavailable, match="artifact directory"):
        await storage.put(KEY, "image/png", chunks(b"x"))
    with pytest.raises(StorageUnavailable):
        await storage.check()


async def test_without_hard_links_an_upload_works_too(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", none)
    assert await storage.put(KEY, "image/png", chunks(b"abc")) == 3
    assert await storage.size(KEY) == 3


async def test_a_cancelled_upload_leaves_nothing(storage: DirectoryStorage, tmp_path: Path) -> None:
    started = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield bytes(2**20)
        started.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(storage.put(KEY, "image/png", endless()))
    await started.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert files_below(tmp_path) == []
    with pytest.raises(ArtifactNotFound):
        await storage.size(KEY)


async def test_nothing_blocks_the_event_loop(storage: DirectoryStorage) -> None:
    with blockbuster_ctx():
        await storage.put(KEY, "image/png", chunks(bytes(3 * 2**20)))
        assert await storage.size(KEY) == 3 * 2**20
        assert sum([len(chunk) async for chunk in storage.read(KEY, 0, 3 * 2**20)]) == 3 * 2**20
        await storage.check()
        await storage.delete([KEY])
