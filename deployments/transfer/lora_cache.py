"""Disk cache of LoRA files on this node, with a size limit. Several replicas may share it.

<directory>/<key>.safetensors     complete and checked; its users hold a shared lock (flock). A key
                                  is a digest, or the folder of a scope and a digest
<directory>/<random>.part         download in progress; its writer holds an exclusive lock (flock)
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from serve_app.domain.errors import WeightsUnavailable
from weights import eviction

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"


class CachedFile:
    """A cached file that is not evicted until ``release``, or until this process ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Release the file. A second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class LoraCache:
    """LoRA file cache. Thread-safe. All methods but the constructor use the disk."""

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        now: Callable[[], datetime],
        spare_bytes: int = eviction.SPARE_BYTES,
    ) -> None:
        """``max_bytes`` limits the size of all files together: the least recently used are evicted
        first. Files in use are never evicted, so the cache may exceed the limit for a while.
        ``spare_bytes`` of the disk stay free."""
        self._directory = directory
        self._max_bytes = max_bytes
        self._now = now
        self._spare_bytes = spare_bytes

    def acquire(self, key: str) -> CachedFile | None:
        """Lock the file ``key`` and return it. None if it is not cached."""
        path = self._directory / f"{key}{SUFFIX}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        file = CachedFile(path, descriptor)
        seen = os.fstat(descriptor)
        if not _is_at(path, seen):  # evicted before it was locked
            file.release()
            return None
        with suppress(OSError):  # the file belongs to another user
            # Keep the modification time: the engine uses it to detect that a file has changed.
            os.utime(path, ns=(int(self._now().timestamp() * 1e9), seen.st_mtime_ns))
        return file

    @contextmanager
    def part(self) -> Generator[BinaryIO]:
        """Open a new temporary file for writing. It is deleted at the end unless ``keep`` took it.

        Raises ``WeightsUnavailable`` if the disk refuses it.
        """
        path = self._directory / f"{token_hex(16)}.part"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._sweep()
            with _open_locked(path) as opened:
                yield opened
        except OSError as error:
            raise WeightsUnavailable(
                f"LoRA files cannot be written to {self._directory} ({error.strerror or error}): "
                "free some space, change its owner, or set another directory "
                "(DARKROOM_ADAPTERS_DIR)."
            ) from error
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def check_space(self, coming: int) -> None:
        """Raise ``WeightsUnavailable`` if ``coming`` more bytes leave too little disk space."""
        free = eviction.free_bytes(self._directory)
        if free < coming + self._spare_bytes:
            raise WeightsUnavailable(
                f"The disk of {self._directory} has {eviction.gigabytes(free)} free, and "
                f"{eviction.gigabytes(self._spare_bytes)} must stay free. Free some space, or "
                "set another directory (DARKROOM_ADAPTERS_DIR)."
            )

    def keep(self, part: BinaryIO, key: str) -> None:
        """Store the complete and checked ``part`` as the file ``key``, and evict other files."""
        path = self._directory / f"{key}{SUFFIX}"
        path.parent.mkdir(exist_ok=True)
        Path(part.name).replace(path)
        fcntl.flock(part, fcntl.LOCK_UN)  # readers that wait for the lock can continue now
        self._make_room(spared=path)

    def _make_room(self, spared: Path) -> None:
        there: list[tuple[int, int, Path]] = []
        for path in self._directory.rglob(f"*{SUFFIX}"):
            with suppress(OSError):
                seen = path.stat()
                there.append((seen.st_atime_ns, seen.st_size, path))
        surplus = sum(size for _, size, _ in there) - self._max_bytes
        for _, size, path in sorted(there):
            if surplus > 0 and path != spared and _try_remove(path):
                log.info("Evicted the LoRA file %s from the disk.", path.stem)
                surplus -= size

    def _sweep(self) -> None:
        """Delete the temporary files of processes that were killed."""
        for path in self._directory.glob("*.part"):
            _try_remove(path)


def _open_locked(path: Path) -> BinaryIO:
    while True:
        opened = path.open("xb")
        fcntl.flock(opened, fcntl.LOCK_EX)
        if _is_at(path, os.fstat(opened.fileno())):
            return opened
        opened.close()  # swept by another process before it was locked


def _try_remove(path: Path) -> bool:
    """Try to delete a file. False if it is in use or belongs to another user."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(path, os.fstat(descriptor)):
            return False
        path.unlink()
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _is_at(path: Path, seen: os.stat_result) -> bool:
    try:
        now = path.stat()
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (seen.st_dev, seen.st_ino)
