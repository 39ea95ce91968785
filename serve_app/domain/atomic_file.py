"""Atomic writing of one file into the artifact directory, by the ingress or by a replica that sees
the same directory."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from serve_app.domain.errors import Forbidden, TooLarge

PART_BYTES = 1 << 20
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}


class TemporaryFile:
    """File that is being written. Every method blocks and runs in a thread.

    Cancelling a caller does not stop its writing thread, so ``discard`` may be called while a
    ``write`` still runs. The lock orders them, and nothing is written after a discard.
    """

    def __init__(self, temporary: Path) -> None:
        self._temporary = temporary
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()
        self._discarded = False
        self.size = 0

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._discarded:
                return
            file = self._opened()
            self.size += len(data)
            self._note(data)
            file.write(data)

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = opened_new(self._temporary)
        return self._file

    def _note(self, data: bytes) -> None:
        """Called with what is written next, after its size was added."""

    def discard(self) -> None:
        """Remove the temporary file. After a commit the content has its own name and stays."""
        with self._lock:
            self._discarded = True
            if self._file is not None:
                # Closing flushes, which fails again on a full disk. That error was reported before.
                with contextlib.suppress(OSError):
                    self._file.close()
                self._temporary.unlink(missing_ok=True)


class AtomicFile(TemporaryFile):
    """Object that is being written."""

    def __init__(self, path: Path, max_bytes: int | None) -> None:
        super().__init__(path.with_name(f".{path.name}.{secrets.token_hex(8)}.part"))
        self._path = path
        self._max_bytes = max_bytes

    @staticmethod
    def temporary_names(path: Path) -> str:
        """Glob pattern of the temporary files that uploads of ``path`` use until the commit."""
        return f".{path.name}.*.part"

    def _note(self, data: bytes) -> None:
        del data  # its size was added
        if self._max_bytes is not None and self.size > self._max_bytes:
            raise TooLarge(f"The artifact is larger than the {self._max_bytes} bytes allowed.")

    def commit(self) -> None:
        with self._lock:
            if self._discarded:
                return
            file = self._opened()  # an empty object of which nothing was written
            file.flush()
            os.fsync(file.fileno())
            try:
                # A link fails if the name exists; a rename would replace an object that a client
                # may already know.
                self._path.hardlink_to(self._temporary)
            except FileExistsError:
                self._refuse_other_content()
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._temporary.replace(self._path)
            fsync_directory(self._path.parent)

    def _refuse_other_content(self) -> None:
        if not filecmp.cmp(self._temporary, self._path, shallow=False):
            raise Forbidden("This artifact was already uploaded with different content.")


def opened_new(path: Path) -> BinaryIO:
    """Create a file. Retries, because a concurrent delete may remove the empty directory between
    the two steps."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return path.open("xb")


def fsync_directory(directory: Path) -> None:
    """Flush a directory, so that a new name in it survives a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# A folder of objects that several processes write. One that runs elsewhere does not see its
# marker, and sends objects to one that does.

_MARKER = ".marker-"


def marker_of(root: Path) -> str:
    """Path of a file in ``root`` whose name no other folder has. Made where there is none."""
    for marker in sorted(root.glob(f"{_MARKER}*")):
        return str(marker)
    marker = root / f"{_MARKER}{secrets.token_hex(8)}"
    marker.touch(exist_ok=True)
    return str(marker)


def write_beside(
    marker: str, key: str, body: bytes | Path, *, max_bytes: int, least_free: int
) -> bool:
    """Write an object into the folder of ``marker``. Blocks.

    False, and nothing is written: the folder is not seen here or is another user's, fewer than
    ``least_free`` bytes would be free, or the object is there with other content. ``TooLarge``.
    """
    root = Path(marker).parent
    try:
        if Path(marker).stat().st_uid != os.geteuid():
            return False
        size = len(body) if isinstance(body, bytes) else body.stat().st_size
        if shutil.disk_usage(root).free - size < least_free:
            return False
        arriving = AtomicFile(root / key, max_bytes)
        try:
            for part in parts_of(body):
                arriving.write(part)
            arriving.commit()
        finally:
            arriving.discard()
    except (OSError, Forbidden):
        return False
    return True


def parts_of(body: bytes | Path) -> Iterator[bytes]:
    """Content in parts of ``PART_BYTES``. Of a file it reads one at a time."""
    if isinstance(body, bytes):
        yield body
        return
    with body.open("rb") as file:
        while len(part := file.read(PART_BYTES)) == PART_BYTES:
            yield part
        yield part
