"""Polling for conditions that have no event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


async def eventually(true: Callable[[], Awaitable[bool]], patience_s: float = 120.0) -> None:
    end = time.monotonic() + patience_s
    while not await true():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.02)
