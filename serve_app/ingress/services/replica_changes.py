"""Notices that replicas changed: their stage, what they do, and the weights that they hold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from serve_app.domain.errors import DarkroomError
from serve_app.domain.ports import Clock

FRESH_S = 1.0
UNTOLD = frozenset({"seen_s", "memory_used", "memory_total"})
"""What changes all the time."""


class ReplicaChanges:
    """Counts the changes of what ``replicas()`` returns. Callers share one look a second."""

    def __init__(
        self, replicas: Callable[[], Awaitable[Sequence[Mapping[str, Any]]]], clock: Clock
    ) -> None:
        self._replicas = replicas
        self._clock = clock
        self._looking = asyncio.Lock()
        self._looked = float("-inf")
        self._seen: Sequence[Mapping[str, Any]] | None = None
        self._count = 0

    async def count(self) -> int:
        """Number of the changes that were noticed until now. The same while the database is
        away."""
        async with self._looking:
            now = self._clock.monotonic()
            if now - self._looked >= FRESH_S:
                self._looked = now
                await self._look()
        return self._count

    async def _look(self) -> None:
        try:
            rows = await self._replicas()
        except DarkroomError:
            return
        seen = [{k: v for k, v in row.items() if k not in UNTOLD} for row in rows]
        if seen != self._seen:
            self._seen = seen
            self._count += 1
