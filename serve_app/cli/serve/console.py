"""Terminal output of ``darkroom serve``, kept free of Ray's messages.

Ray writes to both standard streams, from Python and from C++. While a console is open, both streams
are redirected to a file, and only text written through the console reaches the terminal.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import TextIO

STDOUT, STDERR = 1, 2


class _Terminal(io.TextIOWrapper):
    """Terminal that may be closed while Darkroom runs. What is written then is lost."""

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


class Console:
    """Console that redirects stdout and stderr to the file ``noise`` from ``open`` to ``close``.

    ``stream`` is the real stderr.
    """

    def __init__(self, noise: Path) -> None:
        self._noise = noise
        self._kept: dict[int, int] = {}  # descriptor → duplicate of the original
        self.stream: TextIO = sys.stderr

    @property
    def is_terminal(self) -> bool:
        """True if people read the console, and not a file or a log collector."""
        return self.stream.isatty()

    def open(self) -> None:
        if self._kept:
            return
        self._noise.parent.mkdir(parents=True, exist_ok=True)
        _flush()
        self.stream = _Terminal(
            os.fdopen(os.dup(STDERR), "wb"), encoding="utf-8", line_buffering=True
        )
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

    def print_line(self, text: str) -> None:
        """Write ``text`` as one line; see ``write``."""
        self.write(f"{text}\n")

    def write(self, text: str) -> None:
        """Write ``text`` to the terminal. A terminal that was closed is ignored, because Darkroom
        must still stop its processes."""
        with contextlib.suppress(OSError):
            self.stream.write(text)
            self.stream.flush()


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


# Copies a growing log file to the console. All processes of Darkroom append to this file.

ROTATE_AT_BYTES = 20 * 2**20
POLL_INTERVAL_S = 0.5


class LogFollower:
    """Thread that copies text appended to ``path`` after the start to the console."""

    def __init__(self, path: Path, console: Console) -> None:
        self._path = path
        self._console = console
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Follow the file from its current end.

        A file above ``ROTATE_AT_BYTES`` is moved to ``.log.1`` and truncated. If that fails, it is
        tried again when the file has grown by as much.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        self._thread = threading.Thread(
            target=self._follow, args=(self._path.stat().st_size,), daemon=True, name="log"
        )
        self._thread.start()

    def aclose(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def _follow(self, position: int) -> None:
        rotate_at = ROTATE_AT_BYTES
        with self._path.open(encoding="utf-8", errors="replace") as log:
            log.seek(position)
            while True:
                ending = self._end.is_set()
                text = log.read()
                if text:
                    self._console.write(text)
                elif ending:
                    return
                elif (size := os.fstat(log.fileno()).st_size) > rotate_at:
                    try:
                        self._rotate(log)
                        rotate_at = ROTATE_AT_BYTES
                    except OSError as error:  # the disk may be full: this thread must go on
                        rotate_at = size + ROTATE_AT_BYTES
                        self._console.print_line(f"{self._path} cannot be rotated: {error}")
                else:
                    self._end.wait(POLL_INTERVAL_S)

    def _rotate(self, log: TextIO) -> None:
        """Copy the file and truncate it in place, because the writers keep it open for append.

        Lines that arrive between the copy and the last read appear only on the console, and those
        of the moment between that read and the truncation nowhere.
        """
        shutil.copyfile(self._path, self._path.with_suffix(".log.1"))
        self._console.write(log.read())
        os.truncate(self._path, 0)
        log.seek(0)
