"""Temporary files of a process: those of one attempt, for content that is too large for memory, and
folders that do not stay for good if the process is killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from serve_app.domain.errors import Cancelled

OnEncoded = Callable[[int, int], None]
"""Callback with the frames or samples written so far, and the total."""


def _nobody(done: int, total: int) -> None:
    """Ignore the progress."""


PREFIX = "darkroom-scratch-"
"""Beginning of the names of folders that ``remove_abandoned`` may delete."""


class HeldFolder:
    """New temporary folder, readable by this user only. It is locked (flock) until ``remove``, or
    until this process ends."""

    def __init__(self) -> None:
        """Raises ``OSError`` if the disk refuses it."""
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            try:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:  # deleted by another process before it was locked
                continue
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            if self.path.exists():
                return
            os.close(self._descriptor)

    def remove(self) -> None:
        """Delete it with its files. Call once."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)


def remove_abandoned() -> None:
    """Delete the folders of this user's processes that were killed. It may take seconds."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with suppress(OSError):  # in use, of another user, or removed meanwhile
            descriptor = os.open(path, flags)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_uid == os.geteuid():
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


class Scratch:
    """Temporary folder, created on first use. Thread-safe.

    It may be closed while a thread writes: that thread stops at its next ``check``, and the folder
    is removed when it has left.
    """

    def __init__(self, on_made: OnEncoded = _nobody) -> None:
        self.on_made = on_made
        self.description = ""  # comment for the files, see ``FileMetadata.text``; empty: none
        self.marked = False  # the files say that they are AI-generated
        self._lock = threading.Lock()
        self._folder: HeldFolder | None = None
        self._files = 0
        self._at_work = 0
        self._closed = False

    def new_file(self, extension: str) -> Path:
        """Path for a new file, which does not exist yet."""
        with self._lock:
            if self._closed:
                raise Cancelled(_CLOSED)
            if self._folder is None:
                self._folder = HeldFolder()
            self._files += 1
            return self._folder.path / f"{self._files}.{extension}"

    def check(self) -> None:
        """Raise ``Cancelled`` if the folder is closed."""
        if self._closed:
            raise Cancelled(_CLOSED)

    @contextmanager
    def busy(self) -> Generator[None]:
        """Keep the folder until this thread has finished writing."""
        with self._lock:
            self._at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1
            self._remove_if_left()

    def close(self) -> None:
        """Mark the files as no longer needed. Idempotent."""
        self._closed = True
        self._remove_if_left()

    def _remove_if_left(self) -> None:
        with self._lock:
            if not self._closed or self._at_work or self._folder is None:
                return
            folder, self._folder = self._folder, None
        folder.remove()


_CLOSED = "The request was cancelled."
