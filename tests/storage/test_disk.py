from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serve_app.domain.errors import StorageFull, StorageUnavailable
from serve_app.storage.selection import DiskGuard
from tests.fakes.clock import FakeClock


async def test_enough_room_is_no_matter(tmp_path: Path) -> None:
    await DiskGuard(tmp_path, 1, FakeClock()).check()


async def test_too_little_room_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match="DARKROOM_MIN_FREE_DISK_BYTES"):
        await DiskGuard(tmp_path, 2**62, FakeClock()).check()


async def test_many_at_once_are_judged_alike(tmp_path: Path) -> None:
    guard = DiskGuard(tmp_path, 1, FakeClock())
    await asyncio.gather(*(guard.check() for _ in range(50)))


async def test_a_directory_that_went_away_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        await DiskGuard(tmp_path / "gone", 1, FakeClock()).check()
