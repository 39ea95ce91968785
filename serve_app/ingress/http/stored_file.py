"""Content of stored files in responses."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing


async def begin(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """``chunks``, of which the first is read now: an error of storage comes before the status is
    sent, and not as a response that breaks off."""
    first = await anext(chunks, b"")

    async def whole() -> AsyncGenerator[bytes]:
        async with aclosing(chunks):
            yield first
            async for chunk in chunks:
                yield chunk

    return whole()
