"""What the store asks of a place that weights come from, and what it writes them to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from weights.listing import ListedFile, Listing

OnProgress = Callable[[int, int], None]
"""Bytes done, bytes in all."""


class Stopped(Exception):
    """Another file of the same download has failed."""


class Part:
    """A file that is being fetched, as whoever fetches it writes to it. What was there before
    stays: the next bytes go behind it."""

    def __init__(self, path: Path, grown: Callable[[int], None], stop: threading.Event) -> None:
        """``grown`` is called with how many bytes have come, less those that were dropped."""
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
        """On the disk for good."""
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


class Source(Protocol):
    """The hub, or a mirror of it. Failures are ``WeightsUnavailable``, in sentences."""

    def listing(self, repository: str, revision: str) -> Listing | None:
        """None: it does not have it, and another source may."""
        ...

    def fetch(self, listing: Listing, file: ListedFile, part: Part) -> None:
        """Write what is missing behind what ``part`` has. May raise ``OSError`` of the disk."""
        ...
