"""Deletion of files whose storage location is away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from serve_app.domain.errors import StorageUnavailable
from serve_app.ingress.services.files import FileCollector
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
