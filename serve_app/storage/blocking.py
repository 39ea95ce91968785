"""Blocking work on the files of the directory, in threads."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from typing import ParamSpec, TypeVar

from serve_app.domain.errors import StorageFull, StorageUnavailable

P = ParamSpec("P")
T = TypeVar("T")

CHUNK_BYTES = 1 << 20
"""Written and read at once; each costs one hop to a thread."""

_FULL = {errno.ENOSPC, errno.EDQUOT}


async def in_thread(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run blocking ``work`` in a thread; the system's errors become ours."""
    try:
        return await asyncio.to_thread(work, *arguments, **named)
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(
                "The disk that holds the artifacts is full: free some space, or point "
                "DARKROOM_DATA_DIR at a larger one."
            ) from error
        raise StorageUnavailable(
            f"The artifact directory does not work: {error.strerror or error}."
        ) from error


async def write_all(chunks: AsyncIterator[bytes], write: Callable[[bytes], object]) -> None:
    """Every byte of ``chunks``, in pieces of about ``CHUNK_BYTES``."""
    pending: list[bytes] = []
    pending_bytes = 0
    async for chunk in chunks:
        pending.append(chunk)
        pending_bytes += len(chunk)
        if pending_bytes >= CHUNK_BYTES:
            await in_thread(write, b"".join(pending))
            pending, pending_bytes = [], 0
    await in_thread(write, b"".join(pending))
