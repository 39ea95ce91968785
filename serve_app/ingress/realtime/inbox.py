"""Frames that have come and are not drawn yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Arrived:
    """A frame as its client sent it, checked."""

    request_id: str  # ours
    input: Mapping[str, Any]
    echo: dict[str, Any]  # with the client's own ``request_id``, if it gave one
    size: int  # bytes


class Inbox:
    """At most ``most`` frames and ``most_bytes``: the oldest give way to newer ones, since whoever
    draws while he moves wants the last picture. The newest is always kept. For one event loop."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._frames: deque[Arrived] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: Arrived) -> list[Arrived]:
        """Those that are dropped for it."""
        self._frames.append(frame)
        self._bytes += frame.size
        dropped: list[Arrived] = []
        while len(self._frames) > 1 and (
            len(self._frames) > self._most or self._bytes > self._most_bytes
        ):
            dropped.append(self._pop())
        self._arrived.set()
        return dropped

    async def take(self, within_s: float) -> Arrived | None:
        """The oldest, as soon as there is one; None when none came ``within_s``."""
        if not self._frames:
            self._arrived.clear()
            try:
                async with asyncio.timeout(within_s):
                    await self._arrived.wait()
            except TimeoutError:
                return None
        return self._pop()

    def _pop(self) -> Arrived:
        frame = self._frames.popleft()
        self._bytes -= frame.size
        return frame
