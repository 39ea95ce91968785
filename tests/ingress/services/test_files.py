"""Deletion of files while a storage location is away, or the database does not age uploads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from serve_app.domain.errors import DatabaseUnavailable, StorageUnavailable
from serve_app.domain.upload import Upload
from serve_app.ingress.services.file_collector import FileCollector
from serve_app.storage.locations import LocatedStorage
from tests.fakes.clock import FakeClock
from tests.fakes.storage import FakeStorage

OWN, ACME = "r/0195/1/abc.png", "r/0195/1/abc.acme.png"


class Listed:
    """Keys to delete, each of which is taken once in a round."""

    def __init__(self, *keys: str) -> None:
        self.keys = [*keys]
        self._due = [*keys]

    async def take(self, most: int) -> Sequence[str]:
        taken, self._due = self._due[:most], self._due[most:]
        return taken

    async def forget(self, keys: Sequence[str]) -> None:
        self.keys = [key for key in self.keys if key not in keys]


async def test_files_of_a_location_that_is_away_stay_listed_and_the_others_do_not() -> None:
    own: Any = FakeStorage(b"k" * 32, "http://in", FakeClock())
    own.objects[OWN] = b"image"
    listed: Any = Listed(ACME, OWN)
    book: Any = None
    collector = FileCollector(listed, book, LocatedStorage(own, {}))
    with pytest.raises(StorageUnavailable, match="location acme"):
        await collector.delete_garbage_files()
    assert own.objects == {}
    assert listed.keys == [ACME]


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
        self.uploads = [each for each in self.uploads if each.key not in keys]
        self.forgotten.set()


async def test_uploads_of_a_location_that_is_away_stay_listed_and_the_others_do_not() -> None:
    own: Any = FakeStorage(b"k" * 32, "http://in", FakeClock())
    own.objects["u/abc/a.png"] = b"image"
    away = Upload("u/abc.acme/a.png", "1", "acme", "image/png", parts_id="0" * 32)
    here = Upload("u/abc/a.png", "2", "default", "image/png")
    book: Any = ListedUploads(away, here)
    listed: Any = Listed()
    collector = FileCollector(listed, book, LocatedStorage(own, {}))
    with pytest.raises(StorageUnavailable, match="location acme"):
        await collector.delete_garbage_uploads()
    assert own.objects == {}
    assert book.uploads == [away]


async def test_abandoned_uploads_are_deleted_while_no_upload_can_be_aged() -> None:
    own: Any = FakeStorage(b"k" * 32, "http://in", FakeClock())
    own.objects["u/abc/a.png"] = b"image"
    book: Any = ListedUploads(Upload("u/abc/a.png", "1", "default", "image/png"))
    listed: Any = Listed()
    collector = FileCollector(listed, book, LocatedStorage(own, {}))
    collector.start()
    try:
        await asyncio.wait_for(book.forgotten.wait(), 10)
    finally:
        await collector.aclose()
    assert (own.objects, book.uploads) == ({}, [])
