"""One lock a repository, on a file: shared while its weights are loaded, exclusive while they are
fetched or evicted. The kernel releases it when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

LOOK_AGAIN_S = 0.25


class RepositoryLock:
    """``flock`` on one file, by one thread at a time. Take it before anything, release it last."""

    def __init__(self, path: Path, sleep: Callable[[float], None] = time.sleep) -> None:
        self._path = path
        self._sleep = sleep
        self._fd: int | None = None

    def reach(self) -> int:
        """Its descriptor, without waiting for the lock. ``OSError`` where no file can be made."""
        if self._fd is not None:
            return self._fd
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Not inherited by programs that this process starts, which would hold the lock on.
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except PermissionError:
            # Made by another user of the same cache: reading is enough to lock it.
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self._fd

    def share(self, waiting: Callable[[], None] | None = None) -> None:
        """Wait for the lock, together with others who share it. ``waiting`` is called now and
        then; what it raises ends the wait."""
        self._wait(fcntl.LOCK_SH, waiting)

    def take(self, waiting: Callable[[], None] | None = None) -> None:
        """The same, alone. From shared to alone the lock may be somebody else's in between."""
        self._wait(fcntl.LOCK_EX, waiting)

    def try_take(self) -> bool:
        """Alone if nobody else has it."""
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
            fcntl.flock(self.reach(), kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
