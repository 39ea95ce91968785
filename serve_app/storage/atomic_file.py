"""Atomic upload of one file into the artifact directory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from serve_app.domain.errors import Forbidden, StorageFull, StorageUnavailable, TooLarge
from serve_app.domain.sharing.fair_queue import FairThreads

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}


class AtomicFile:
    """Object that is being uploaded. Every method blocks and runs in a thread.

    Cancelling a caller does not stop its writing thread, so ``discard`` may be called while a
    ``write`` still runs. The lock orders them, and nothing is written after a discard.
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
        """Glob pattern of the temporary files that uploads of ``path`` use until the commit."""
        return f".{path.name}.*.part"

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._discarded:
                return
            if self._file is None:
                self._file = opened_new(self._temporary)
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
        with self._path.open("rb") as there:
            if hashlib.file_digest(there, "sha256").digest() != self._digest.digest():
                raise Forbidden("This artifact was already uploaded with different content.")

    def discard(self) -> None:
        """Remove the temporary file. After a commit the object has its own name and stays."""
        with self._lock:
            self._discarded = True
            if self._file is not None:
                # Closing flushes, which fails again on a full disk. That error was reported before.
                with contextlib.suppress(OSError):
                    self._file.close()
                self._temporary.unlink(missing_ok=True)


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


# Blocking file operations of the artifact directory, run in threads.

P = ParamSpec("P")
T = TypeVar("T")

CHUNK_BYTES = 1 << 20
"""Size of a read or write. Each one runs in a thread."""

_FULL = {errno.ENOSPC, errno.EDQUOT}

MAX_THREADS = 32  # each waits for a disk
_THREADS = FairThreads(MAX_THREADS, "storage")


async def run_blocking(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run ``work`` in a thread that only the storage uses, in the context of the caller and within
    its tenant's share."""
    call = partial(copy_context().run, work, *arguments, **named)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)


async def in_thread(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run blocking ``work`` in a thread. ``OSError`` becomes ``StorageFull`` or
    ``StorageUnavailable``."""
    try:
        return await run_blocking(work, *arguments, **named)
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(
                "The disk that holds the artifacts is full. Free some space, or set "
                "DARKROOM_DATA_DIR to a directory on a larger disk."
            ) from error
        raise StorageUnavailable(
            f"The artifact directory cannot be used: {error.strerror or error}."
        ) from error


async def write_all(chunks: AsyncIterator[bytes], write: Callable[[bytes], object]) -> None:
    """Write every byte of ``chunks``, in pieces of about ``CHUNK_BYTES``."""
    pending: list[bytes] = []
    pending_bytes = 0
    async for chunk in chunks:
        pending.append(chunk)
        pending_bytes += len(chunk)
        if pending_bytes >= CHUNK_BYTES:
            await in_thread(write, b"".join(pending))
            pending, pending_bytes = [], 0
    await in_thread(write, b"".join(pending))
