"""Work that goes on after the call that began it has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)


class Background:
    """Holds tasks until they end: the event loop alone would let them be collected."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def hold(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start ``work``; whoever awaits the task gets its outcome."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def leave(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start ``work``, for which nobody waits: its failure goes to the log under ``name``."""
        task = self.hold(work)
        task.set_name(name)
        task.add_done_callback(_tell)
        return task

    async def join(self) -> None:
        """Wait until all have ended; for the shutdown, before the queue closes."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))


def _tell(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s failed: %s", task.get_name(), error, exc_info=error)
