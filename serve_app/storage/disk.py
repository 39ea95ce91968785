"""Whether there is room for what an accepted request will produce."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from serve_app.domain.errors import StorageFull, StorageUnavailable
from serve_app.domain.ports import Clock

FRESH_S = 1.0


class DiskGuard:
    """Refuses while less than ``min_free_bytes`` are free; looks at most once a second."""

    def __init__(self, directory: Path, min_free_bytes: int, clock: Clock) -> None:
        self._directory = directory
        self._min_free_bytes = min_free_bytes
        self._clock = clock
        self._looked_at = float("-inf")
        self._free_bytes: int | None = None  # None: the first look is still under way

    async def check(self) -> None:
        """``StorageFull`` when too little is free, in words that say what to do."""
        now = self._clock.monotonic()
        if now - self._looked_at >= FRESH_S:
            self._looked_at = now  # before the wait: the others go by the last figure meanwhile
            self._free_bytes = await self._look()
        if self._free_bytes is not None and self._free_bytes < self._min_free_bytes:
            raise StorageFull(
                f"Too little disk space is left to accept more: {self._free_bytes >> 20} MiB free, "
                f"{self._min_free_bytes >> 20} MiB required (DARKROOM_MIN_FREE_DISK_BYTES)."
            )

    async def _look(self) -> int:
        try:
            return (await asyncio.to_thread(shutil.disk_usage, self._directory)).free
        except OSError as error:
            raise StorageUnavailable(
                f"The artifact directory {self._directory} cannot be read: {error.strerror}."
            ) from error
