from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def content(storage: Any, key: str, start: int = 0, end: int = 2**40) -> bytes:
    return b"".join([chunk async for chunk in storage.read(key, start, end)])
