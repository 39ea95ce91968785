"""Files that were computed from weights, such as weights in 8 bits. They can be computed again.

They lie beside the repositories, are bounded, and are the first to go when weights need the room.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

FOLDER = ".darkroom-derived"
"""Directory in that of the store."""


class DerivedFiles:
    """Files by name, the longest unused evicted first. For several threads and processes.

    A file can be read after it was evicted by whoever has it open.
    """

    def __init__(
        self, directory: Path, limit: Callable[[], int], free: Callable[[Path], int]
    ) -> None:
        """``limit``: bytes that all files may take now. ``free``: bytes that may still be written
        to the disk of a directory."""
        self._folder = directory / FOLDER
        self._limit = limit
        self._free = free

    def find(self, name: str) -> Path | None:
        """Path of a file, which counts as used now. None if it is not there."""
        path = self._folder / name
        with contextlib.suppress(OSError):  # a read-only directory
            os.utime(path)
        return path if path.is_file() else None

    def write(self, name: str, size: int, write: Callable[[Path], None]) -> bool:
        """Let ``write`` write a file of about ``size`` bytes, which is there whole or not at all.

        Return False, and log why, if there is no room or the disk cannot be written.
        """
        part = self._folder / f"{name}.{os.getpid()}.{threading.get_ident()}.part"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not self._make_room(size):
                log.info("%s is not kept: there is no room for %.2f GB.", name, size / 1e9)
                return False
            write(part)
            _sync(part)
            part.replace(self._folder / name)
            _sync(self._folder)
        except OSError as error:
            log.warning("%s is not kept: %s cannot be written: %s.", name, self._folder, error)
            return False
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        return True

    def discard(self, name: str) -> None:
        """Remove a file, such as a damaged one."""
        with contextlib.suppress(OSError):
            (self._folder / name).unlink(missing_ok=True)

    def _make_room(self, size: int) -> bool:
        limit = self._limit() - size
        if limit < 0:
            return False
        shrink(self._folder.parent, limit)
        for path, _ in _by_use(self._folder):
            if self._free(self._folder) >= size:
                break
            _evict(path)
        return self._free(self._folder) >= size


def shrink(directory: Path, limit: int) -> None:
    """Evict the longest unused files of the store's ``directory`` until ``limit`` bytes are left.

    Among them are parts that ended processes have left. A process whose part is evicted while it
    writes keeps no file.
    """
    files = _by_use(directory / FOLDER)
    left = sum(size for _, size in files)
    for path, size in files:
        if left <= limit:
            return
        _evict(path)
        left -= size


def _by_use(folder: Path) -> Sequence[tuple[Path, int]]:
    """Files with their sizes, the longest unused first."""
    entries: list[tuple[float, Path, int]] = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):  # another process has evicted it
                facts = path.stat()
                entries.append((facts.st_mtime, path, facts.st_size))
    return [(path, size) for _, path, size in sorted(entries)]


def _evict(path: Path) -> None:
    log.info("Evicting %s.", path.name)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
