"""One file on its way into the directory."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import threading
from pathlib import Path
from typing import BinaryIO

from serve_app.domain.errors import Forbidden, TooLarge

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}


class ArrivingFile:
    """One object on its way in. Every method blocks and runs in a thread.

    A cancelled caller does not stop the thread that writes for it, so ``discard`` may come while a
    ``write`` still runs: the lock puts them in order, and nothing is written after a discard.
    """

    def __init__(self, path: Path, max_bytes: int | None) -> None:
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        self._path = path
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()
        self._discarded = False
        self.size = 0

    @staticmethod
    def temporary_names(path: Path) -> str:
        """A pattern of those that uploads of ``path`` have until they are whole."""
        return f".{path.name}.*.part"

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._discarded:
                return
            if self._file is None:
                self._file = _opened(self._temporary)
            self.size += len(data)
            if self._max_bytes is not None and self.size > self._max_bytes:
                raise TooLarge(f"The artifact is larger than the {self._max_bytes} bytes allowed.")
            self._digest.update(data)
            self._file.write(data)

    def commit(self) -> None:
        with self._lock:
            if self._file is None or self._discarded:
                return
            self._file.flush()
            os.fsync(self._file.fileno())
            try:
                # link, not rename: it refuses to replace what a client may have been given already.
                self._path.hardlink_to(self._temporary)
            except FileExistsError:
                self._refuse_other_content()
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._temporary.replace(self._path)
            fsync_directory(self._path.parent)

    def _refuse_other_content(self) -> None:
        with self._path.open("rb") as there:
            if hashlib.file_digest(there, "sha256").digest() != self._digest.digest():
                raise Forbidden("This artifact was already uploaded with other content.")

    def discard(self) -> None:
        """Remove the temporary file; after a commit the object has its own name and stays."""
        with self._lock:
            self._discarded = True
            if self._file is not None:
                # Closing flushes, which fails once more on a full disk: that was reported already.
                with contextlib.suppress(OSError):
                    self._file.close()
                self._temporary.unlink(missing_ok=True)


def _opened(path: Path) -> BinaryIO:
    """A new file. Whoever deletes the last file of a directory removes it, also between the two
    steps here."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return path.open("xb")


def fsync_directory(directory: Path) -> None:
    """Make the new name itself survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
