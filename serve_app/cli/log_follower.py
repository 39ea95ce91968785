"""Shows a growing log file on the console: the processes of Darkroom append to one file, and a
person who started them on a laptop reads it as it grows."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import TextIO

from serve_app.cli.console import Console

ROTATE_AT_BYTES = 20 * 2**20
LOOK_EVERY_S = 0.1


class LogFollower:
    """Copies what is appended to ``path`` from now on."""

    def __init__(self, path: Path, console: Console) -> None:
        self._path = path
        self._console = console
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Follow the file from its present end; it is kept under ``ROTATE_AT_BYTES``, and what it
        held before in a second one."""
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
        with self._path.open(encoding="utf-8", errors="replace") as log:
            log.seek(position)
            while True:
                ending = self._end.is_set()
                text = log.read()
                if text:
                    self._console.write(text)
                elif ending:
                    return
                elif os.fstat(log.fileno()).st_size > ROTATE_AT_BYTES:
                    self._rotate(log)
                else:
                    self._end.wait(LOOK_EVERY_S)

    def _rotate(self, log: TextIO) -> None:
        """Those that write have the file open and append: so it is copied and emptied in place.
        What comes in the moment between is on the console alone."""
        shutil.copyfile(self._path, self._path.with_suffix(".log.1"))
        self._console.write(log.read())
        os.truncate(self._path, 0)
        log.seek(0)
