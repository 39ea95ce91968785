"""Blocking calls of storage, run in threads."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from typing import ParamSpec, TypeVar

from serve_app.domain.errors import StorageFull, StorageUnavailable
from serve_app.domain.sharing.fair_queue import FairThreads

P = ParamSpec("P")
T = TypeVar("T")

CHUNK_BYTES = 1 << 20
"""Size of a read or write. Each one runs in a thread."""

_FULL = {errno.ENOSPC, errno.EDQUOT}

MAX_THREADS = 32  # each waits for a disk
_THREADS = FairThreads(MAX_THREADS, "storage")
run_blocking = _THREADS.run
"""Run work in a thread that only the storage uses."""


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
