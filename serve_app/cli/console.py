"""The terminal of whoever started Darkroom, kept for what Darkroom says.

Ray writes to both standard streams, from Python and from C++, at its own liking. While a console
is open they are a file, and only what is said here reaches the terminal.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TextIO

STDOUT, STDERR = 1, 2


class Console:
    """``stream`` is the real stderr; from ``open`` to ``close`` both descriptors are ``noise``."""

    def __init__(self, noise: Path) -> None:
        self._noise = noise
        self._kept: dict[int, int] = {}  # descriptor → a duplicate of what it was
        self.stream: TextIO = sys.stderr

    def open(self) -> None:
        if self._kept:
            return
        self._noise.parent.mkdir(parents=True, exist_ok=True)
        _flush()
        self.stream = os.fdopen(os.dup(STDERR), "w", buffering=1, encoding="utf-8")
        with self._noise.open("ab") as noise:
            for descriptor in (STDOUT, STDERR):
                self._kept[descriptor] = os.dup(descriptor)
                os.dup2(noise.fileno(), descriptor)

    def close(self) -> None:
        if not self._kept:
            return
        _flush()
        for descriptor, was in self._kept.items():
            os.dup2(was, descriptor)
            os.close(was)
        self._kept.clear()
        with contextlib.suppress(OSError):
            self.stream.close()
        self.stream = sys.stderr

    def say(self, text: str) -> None:
        """As ``write``, a line."""
        self.write(f"{text}\n")

    def write(self, text: str) -> None:
        """To the terminal, if it is still there: when it was closed, Darkroom has yet to end what
        it started."""
        with contextlib.suppress(OSError):
            self.stream.write(text)
            self.stream.flush()


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
