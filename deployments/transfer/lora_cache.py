"""Adapters' files on this node, kept for the next request within a cap; replicas may share them.

<directory>/<key>.safetensors     whole and checked; locked by whoever uses it (flock, shared)
<directory>/<random>.part         while it comes; locked by whoever writes it
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
from weights import disk

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"


class HeldFile:
    """It stays where it is until ``release``, or the end of this process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """The second time nothing happens."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class AdapterCache:
    """Use from any thread. Its methods touch the disk, but for the constructor."""

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        now: Callable[[], datetime],
        spare_bytes: int = disk.SPARE_BYTES,
    ) -> None:
        """``max_bytes``: of all files; those unused for longest go first. Those in use stay, so
        for a while it may be more. ``spare_bytes`` of the disk stay free."""
        self._directory = directory
        self._max_bytes = max_bytes
        self._now = now
        self._spare_bytes = spare_bytes

    def hold(self, key: str) -> HeldFile | None:
        """The file ``key``; None: it is not here."""
        path = self._directory / f"{key}{SUFFIX}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        held = HeldFile(path, descriptor)
        seen = os.fstat(descriptor)
        if not _is_at(path, seen):  # evicted before it was locked
            held.release()
            return None
        with suppress(OSError):  # another user's
            # The time of its change stays: it tells the engine whether it is the same file.
            os.utime(path, ns=(int(self._now().timestamp() * 1e9), seen.st_mtime_ns))
        return held

    @contextmanager
    def part(self) -> Generator[BinaryIO]:
        """A new file to write to. It is gone at the end, unless it was ``keep``-ed.

        ``WeightsUnavailable`` when the disk does not take it.
        """
        path = self._directory / f"{token_hex(16)}.part"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._sweep()
            with _locked(path) as opened:
                yield opened
        except OSError as error:
            raise WeightsUnavailable(
                f"Adapters cannot be written to {self._directory} ({error.strerror or error}): "
                "free some space, change its owner, or name another directory "
                "(DARKROOM_ADAPTERS_DIR)."
            ) from error
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def check_room(self, coming: int) -> None:
        """``WeightsUnavailable`` when ``coming`` more bytes leave too little of the disk free."""
        free = disk.free_bytes(self._directory)
        if free < coming + self._spare_bytes:
            raise WeightsUnavailable(
                f"The disk of {self._directory} has {disk.gigabytes(free)} free, of which "
                f"{disk.gigabytes(self._spare_bytes)} are not for adapters. Free some space, or "
                "name another directory (DARKROOM_ADAPTERS_DIR)."
            )

    def keep(self, part: BinaryIO, key: str) -> None:
        """``part`` is whole and checked: it becomes the file ``key``, and others make room."""
        Path(part.name).replace(self._directory / f"{key}{SUFFIX}")
        fcntl.flock(part, fcntl.LOCK_UN)  # who wants to hold it waits no longer than this
        self._make_room(spared=key)

    def _make_room(self, spared: str) -> None:
        there: list[tuple[int, int, Path]] = []
        for path in self._directory.glob(f"*{SUFFIX}"):
            with suppress(OSError):
                seen = path.stat()
                there.append((seen.st_atime_ns, seen.st_size, path))
        surplus = sum(size for _, size, _ in there) - self._max_bytes
        for _, size, path in sorted(there):
            if surplus > 0 and path.stem != spared and _removed(path):
                log.info("Evicted the adapter %s from the disk.", path.stem)
                surplus -= size

    def _sweep(self) -> None:
        """Parts of processes that were killed."""
        for path in self._directory.glob("*.part"):
            _removed(path)


def _locked(path: Path) -> BinaryIO:
    while True:
        opened = path.open("xb")
        fcntl.flock(opened, fcntl.LOCK_EX)
        if _is_at(path, os.fstat(opened.fileno())):
            return opened
        opened.close()  # swept by another process before it was locked


def _removed(path: Path) -> bool:
    """False: it is in use, or another user's."""
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
