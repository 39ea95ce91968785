"""Guard that refuses what needs disk space while too little is free."""

from __future__ import annotations

import shutil
from pathlib import Path

from serve_app.domain.errors import StorageFull, StorageUnavailable
from serve_app.domain.ports import Clock
from serve_app.settings.groups import LimitSettings
from serve_app.storage.blocking import run_blocking

CACHE_S = 1.0


class DiskGuard:
    """Free space of a disk, read at most once a second, and what is refused below which of it.

    Uploads are refused first, then submits, and artifacts last: so what was accepted can end while
    nothing new is.
    """

    def __init__(self, directory: Path, limits: LimitSettings, clock: Clock) -> None:
        self._directory = directory
        self.limits = limits  # may be replaced at any time
        self._clock = clock
        self._read_at = float("-inf")
        self._free_bytes: int | None = None  # None: the first reading is still running

    @property
    def least_for_artifacts(self) -> int:
        """Bytes that are to be free for artifacts of replicas."""
        limits = self.limits
        return min(limits.min_free_disk_bytes_for_artifacts, limits.min_free_disk_bytes)

    async def check(self) -> None:
        """Raise ``StorageFull`` if too little space is free to accept requests."""
        await self._check(self.limits.min_free_disk_bytes, "requests", "")

    async def check_for_upload(self) -> None:
        """Raise ``StorageFull`` if too little space is free for files of clients."""
        least = max(self.limits.min_free_disk_bytes_for_uploads, self.limits.min_free_disk_bytes)
        await self._check(least, "uploads", "_FOR_UPLOADS")

    async def check_for_artifact(self) -> None:
        """Raise ``StorageFull`` if too little space is free for artifacts of replicas."""
        await self._check(self.least_for_artifacts, "artifacts", "_FOR_ARTIFACTS")

    async def _check(self, least: int, subject: str, setting: str) -> None:
        now = self._clock.monotonic()
        if now - self._read_at >= CACHE_S:
            self._read_at = now  # set before the wait: other calls use the last figure until then
            self._free_bytes = await self._read_free_bytes()
        if self._free_bytes is not None and self._free_bytes < least:
            raise StorageFull(
                f"Too little disk space to accept {subject}: {self._free_bytes >> 20} MiB are "
                f"free, {least >> 20} MiB are required (DARKROOM_MIN_FREE_DISK_BYTES{setting})."
            )

    async def _read_free_bytes(self) -> int:
        try:
            return (await run_blocking(shutil.disk_usage, self._directory)).free
        except OSError as error:
            raise StorageUnavailable(
                f"The artifact directory {self._directory} cannot be read: {error.strerror}."
            ) from error
