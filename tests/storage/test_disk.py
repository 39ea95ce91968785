from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serve_app.domain.errors import StorageFull, StorageUnavailable
from serve_app.settings.groups import LimitSettings
from serve_app.storage.disk_guard import DiskGuard
from tests.fakes.clock import FakeClock


def limits(submits: int, uploads: int = 0, artifacts: int = 0) -> LimitSettings:
    return LimitSettings(
        min_free_disk_bytes=submits,
        min_free_disk_bytes_for_uploads=uploads,
        min_free_disk_bytes_for_artifacts=artifacts,
    )


async def test_enough_room_is_no_matter(tmp_path: Path) -> None:
    await DiskGuard(tmp_path, limits(1), FakeClock()).check()


async def test_too_little_room_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match="DARKROOM_MIN_FREE_DISK_BYTES"):
        await DiskGuard(tmp_path, limits(2**62), FakeClock()).check()


async def test_many_at_once_are_judged_alike(tmp_path: Path) -> None:
    guard = DiskGuard(tmp_path, limits(1), FakeClock())
    await asyncio.gather(*(guard.check() for _ in range(50)))


async def test_a_directory_that_went_away_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        await DiskGuard(tmp_path / "gone", limits(1), FakeClock()).check()


async def test_uploads_are_refused_before_submits_and_artifacts_last(tmp_path: Path) -> None:
    fuller = DiskGuard(tmp_path, limits(1, 2**62, 1), FakeClock())
    await fuller.check()
    with pytest.raises(StorageFull, match="DARKROOM_MIN_FREE_DISK_BYTES_FOR_UPLOADS"):
        await fuller.check_for_upload()
    full = DiskGuard(tmp_path, limits(2**62, 1, 1), FakeClock())
    for refused in (full.check, full.check_for_upload):
        with pytest.raises(StorageFull):
            await refused()
    await full.check_for_artifact()
    fullest = DiskGuard(tmp_path, limits(2**62, 1, 2**62), FakeClock())
    with pytest.raises(StorageFull, match="DARKROOM_MIN_FREE_DISK_BYTES_FOR_ARTIFACTS"):
        await fullest.check_for_artifact()
