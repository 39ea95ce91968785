"""Source protocol of the store, and the file that sources write to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from serve_app.domain.errors import WeightsUnavailable
from weights.folder import ListedFile, Listing

OnProgress = Callable[[int, int], None]
"""Callback with the bytes done and the total."""


class Stopped(Exception):
    """Raised because another file of the same download has failed."""


class ByteRange:
    """File during its download, to which a source appends. Existing content is kept, so that the
    download resumes."""

    def __init__(self, path: Path, grown: Callable[[int], None], stop: threading.Event) -> None:
        """``grown`` receives the number of bytes written; negative for bytes dropped."""
        self._path = path
        self._grown = grown
        self._stop = stop
        self._file = path.open("ab", buffering=0)

    @property
    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def write(self, data: bytes) -> int:
        if self._stop.is_set():
            raise Stopped
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._grown(len(data))
        return len(data)

    def tell(self) -> int:
        return self.size

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def truncate(self) -> int:
        before, at = self.size, self._file.tell()
        self._file.truncate(at)
        self._grown(at - before)
        return at

    def clear(self) -> None:
        self.seek(0)
        self.truncate()

    def settle(self) -> None:
        """Flush the file to the disk."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


class NotOffered(WeightsUnavailable):
    """A source does not have a file now, which is no fault of it: the next source is asked."""


class Source(Protocol):
    """The hub, or a mirror of it. Errors are ``WeightsUnavailable`` with a message for the user."""

    def listing(self, repository: str, revision: str) -> Listing | None:
        """Listing of a commit. None if this source lacks it; another source may have it."""
        ...

    def fetch(self, listing: Listing, file: ListedFile, part: ByteRange) -> None:
        """Append what ``part`` lacks. May raise ``OSError`` for errors of the disk."""
        ...
