"""Deletion of files while a storage location is away, or the database does not age uploads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from serve_app.domain.errors import DatabaseUnavailable, StorageUnavailable
from serve_app.domain.upload import Upload
from serve_app.ingress.services.file_collector import FileCollector, FileDeletion
from serve_app.jobs.worker import JobWorker
from serve_app.storage.locations import LocatedStorage
from tests.fakes.clock import FakeClock
from tests.fakes.jobs import FakeJobs
from tests.fakes.storage import FakeStorage

OWN, ACME = "r/0195/1/abc.png", "r/0195/1/abc.acme.png"


class Needed:
    """Keys that must not be deleted."""

    def __init__(self, *keys: str) -> None:
        self.keys = frozenset(keys)

    async def needed_keys(self, keys: Sequence[str]) -> frozenset[str]:
        return self.keys & {*keys}


def storage_with(*keys: str) -> FakeStorage:
    storage = FakeStorage(b"k" * 32, "http://in", FakeClock())
    storage.objects |= dict.fromkeys(keys, b"image")
    return storage


async def test_files_of_a_location_that_is_away_are_tried_again_and_the_others_are_deleted() -> (
    None
):
    own: Any = storage_with(OWN)
    clock = FakeClock()
    jobs = FakeJobs(clock)
    for key in (ACME, OWN):
        jobs.put("file", key)
    worker = JobWorker(jobs, [FileDeletion(Needed(), LocatedStorage(own, {}))])
    await worker.run_due()
    assert own.objects == {}
    assert [*jobs.rows] == [("file", ACME)]
    assert "location acme" in jobs.rows["file", ACME].error
    for _ in range(20):
        clock.advance(400.0)
        await worker.run_due()
    assert jobs.rows["file", ACME].given_up_at is None


async def test_a_file_that_is_needed_again_stays_and_is_looked_at_later() -> None:
    own: Any = storage_with(OWN)
    jobs = FakeJobs(FakeClock())
    jobs.put("file", OWN)
    await JobWorker(jobs, [FileDeletion(Needed(OWN), own)]).run_due()
    assert [*own.objects] == [OWN]
    assert jobs.rows["file", OWN].attempts == 0


class ListedUploads:
    """Uploads to delete, each of which is taken once in a round."""

    def __init__(self, *uploads: Upload) -> None:
        self.uploads = [*uploads]
        self._due = [*uploads]
        self.forgotten = asyncio.Event()

    async def mark_aged(self) -> None:
        raise DatabaseUnavailable("The statement took too long.")

    async def take_unwanted(self, most: int) -> Sequence[Upload]:
        taken, self._due = self._due[:most], self._due[most:]
        return taken

    async def forget(self, keys: Sequence[str]) -> None:
        self.uploads = [upload for upload in self.uploads if upload.key not in keys]
        self.forgotten.set()


async def test_uploads_of_a_location_that_is_away_stay_listed_and_the_others_do_not() -> None:
    own: Any = FakeStorage(b"k" * 32, "http://in", FakeClock())
    own.objects["u/abc/a.png"] = b"image"
    away = Upload("u/abc.acme/a.png", "1", "acme", "image/png", parts_id="0" * 32)
    here = Upload("u/abc/a.png", "2", "default", "image/png")
    book: Any = ListedUploads(away, here)
    collector = FileCollector(book, LocatedStorage(own, {}))
    with pytest.raises(StorageUnavailable, match="location acme"):
        await collector.delete_garbage_uploads()
    assert own.objects == {}
    assert book.uploads == [away]


async def test_abandoned_uploads_are_deleted_while_no_upload_can_be_aged() -> None:
    own: Any = FakeStorage(b"k" * 32, "http://in", FakeClock())
    own.objects["u/abc/a.png"] = b"image"
    book: Any = ListedUploads(Upload("u/abc/a.png", "1", "default", "image/png"))
    collector = FileCollector(book, LocatedStorage(own, {}))
    collector.start()
    try:
        await asyncio.wait_for(book.forgotten.wait(), 10)
    finally:
        await collector.aclose()
    assert (own.objects, book.uploads) == ({}, [])
