"""File lock of a repository: shared while its weights are loaded, exclusive while they are fetched
or evicted. The kernel releases it when its holder ends for any reason."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

LOOK_AGAIN_S = 0.25


class RepositoryLock:
    """``flock`` on one file, for one thread at a time. Lock before any other step, release last."""

    def __init__(self, path: Path, sleep: Callable[[float], None] = time.sleep) -> None:
        self._path = path
        self._sleep = sleep
        self._fd: int | None = None

    def open(self) -> int:
        """Open the lock file without locking it. ``OSError`` if it cannot be created."""
        if self._fd is not None:
            return self._fd
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Not inherited by child programs, which would keep the lock.
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except PermissionError:
            # Created by another user of the same cache: read access is enough to lock it.
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self._fd

    def share(self, waiting: Callable[[], None] | None = None) -> None:
        """Wait for the shared lock. ``waiting`` is called now and then; if it raises, the wait
        ends."""
        self._wait(fcntl.LOCK_SH, waiting)

    def take(self, waiting: Callable[[], None] | None = None) -> None:
        """Wait for the exclusive lock. An upgrade from shared is not atomic: another process may
        hold the lock in between."""
        self._wait(fcntl.LOCK_EX, waiting)

    def try_take(self) -> bool:
        """Take the exclusive lock if it is free. False otherwise."""
        return self._try(fcntl.LOCK_EX)

    def release(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _wait(self, kind: int, waiting: Callable[[], None] | None) -> None:
        while not self._try(kind):
            if waiting is not None:
                waiting()
            self._sleep(LOOK_AGAIN_S)

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self.open(), kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
