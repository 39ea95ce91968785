"""Temporary files of one attempt, for content that is too large for memory, and folders of a
process in the same place."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from serve_app.domain import held_folder
from serve_app.domain.errors import Cancelled
from serve_app.domain.held_folder import HeldFolder

OnEncoded = Callable[[int, int], None]
"""Callback with the frames or samples written so far, and the total."""


def _nobody(done: int, total: int) -> None:
    """Ignore the progress."""


PREFIX = "darkroom-scratch-"
"""Beginning of the names of folders that ``remove_abandoned`` may delete."""


def new_folder() -> HeldFolder:
    """New temporary folder. Raises ``OSError`` if the disk refuses it."""
    return HeldFolder(Path(tempfile.gettempdir()), PREFIX)


def remove_abandoned() -> None:
    """Delete the folders of this user's processes that were killed. It may take seconds."""
    held_folder.remove_abandoned(Path(tempfile.gettempdir()), PREFIX)


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
                self._folder = new_folder()
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
