"""Where one attempt makes files that are too large for memory."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from serve_app.domain.errors import Cancelled

OnMade = Callable[[int, int], None]
"""Told how many frames, or samples, are in the file, and how many there will be."""


def _nobody(done: int, total: int) -> None:
    """Nobody wants to know."""


class Scratch:
    """A folder, made when it is first needed. Use it on any thread.

    It may be closed while a thread is at work: that one stops at its next ``check``, and the folder
    goes when it has left.
    """

    def __init__(self, on_made: OnMade = _nobody) -> None:
        self.on_made = on_made
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._files = 0
        self._at_work = 0
        self._closed = False

    def new_file(self, extension: str) -> Path:
        """The name of a file that is not there yet."""
        with self._lock:
            if self._closed:
                raise Cancelled(_CLOSED)
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="darkroom-"))
            self._files += 1
            return self._folder / f"{self._files}.{extension}"

    def check(self) -> None:
        """``Cancelled`` when nobody wants the files any more."""
        if self._closed:
            raise Cancelled(_CLOSED)

    @contextmanager
    def at_work(self) -> Generator[None]:
        """While a thread writes here."""
        with self._lock:
            self._at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1
            self._remove_if_left()

    def close(self) -> None:
        """Nobody wants the files any more; idempotent."""
        self._closed = True
        self._remove_if_left()

    def _remove_if_left(self) -> None:
        with self._lock:
            if not self._closed or self._at_work or self._folder is None:
                return
            folder, self._folder = self._folder, None
        shutil.rmtree(folder, ignore_errors=True)


_CLOSED = "The request was cancelled."
