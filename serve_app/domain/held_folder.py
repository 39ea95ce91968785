"""Temporary folders that do not stay for good if their process is killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path


class HeldFolder:
    """New folder in ``parent``, readable by this user only. It is locked (flock) until ``remove``,
    or until this process ends."""

    def __init__(self, parent: Path, prefix: str = "") -> None:
        """``prefix``: beginning of its name. Raises ``OSError`` if the disk refuses it."""
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            try:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:  # deleted by another process before it was locked
                continue
            with suppress(OSError):  # network disks may have no locks: then none is deleted
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            if self.path.exists():
                return
            os.close(self._descriptor)

    def remove(self) -> None:
        """Delete it with its files. Call once."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)


def remove_abandoned(parent: Path, prefix: str = "") -> None:
    """Delete the folders in ``parent`` of this user's processes that were killed. It may take
    seconds."""
    for path in parent.glob(f"{prefix}*"):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with suppress(OSError):  # in use, of another user, or removed meanwhile
            descriptor = os.open(path, flags)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_uid == os.geteuid():
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
