"""Waiting for conditions without an event."""

import asyncio


async def until(condition, timeout_s=120.0):
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
