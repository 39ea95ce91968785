"""What a command waits for, in one line of a terminal."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Self, TextIO

from serve_app.cli.connection.text import echo, shorten

FIRST_S = 2.0  # quick commands show nothing
EVERY_S = 1.0

Words = str | Callable[[], str]


class ProgressLine:
    """Line on standard error with what a command waits for, and for how long.

    Use it in a ``with`` statement, at whose end the line is gone. Nothing is shown unless standard
    error is a terminal. ``quiet``: nothing is shown at all, as for programs.
    """

    def __init__(self, words: Words, *, quiet: bool = False) -> None:
        self._words = words
        self.on_terminal = not quiet and sys.stderr.isatty()
        self._lock = threading.Lock()  # of the line
        self._drawn = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="waiting", daemon=True)

    def __enter__(self) -> Self:
        if self.on_terminal:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self.on_terminal:
            self._thread.join()
            self._clear()

    def show(self, words: Words) -> None:
        """Change the words."""
        self._words = words

    def above(self, text: str) -> None:
        """Print ``text`` on standard output. The line goes on below it."""
        with self._lock:
            self._clear()
            echo(text)

    def _draw(self) -> None:
        began, pause_s = time.monotonic(), FIRST_S
        while not self._ended.wait(pause_s):
            pause_s = EVERY_S
            words = self._words if isinstance(self._words, str) else self._words()
            text = f"{words}, {time.monotonic() - began:.0f} s"
            with self._lock:
                # Some terminals begin a new line in the last column.
                _write(f"\r{shorten(text, columns_of(sys.stderr) - 1)}\x1b[K")
                self._drawn = True

    def _clear(self) -> None:
        if self._drawn:
            _write("\r\x1b[K")
            self._drawn = False


def columns_of(stream: TextIO) -> int:
    """Width of a terminal; 80 if it is not known."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
