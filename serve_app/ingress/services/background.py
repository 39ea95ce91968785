"""Tasks that continue after the call that started them has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)


class Background:
    """Holds tasks until they end. The event loop keeps only weak references to them, so without
    this they could be garbage collected."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cancelled: set[asyncio.Task[None]] = set()  # those that a shutdown ends

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start ``work``. Awaiting the task returns its result."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def start_detached(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start ``work`` without awaiting it. A failure is logged under ``name``."""
        task = self.start(work)
        task.set_name(name)
        task.add_done_callback(_log_failure)
        return task

    def start_until_closed(self, work: Coroutine[Any, Any, None]) -> None:
        """Start ``work``, which ``join`` cancels."""
        task = asyncio.create_task(work)
        self._cancelled.add(task)
        task.add_done_callback(self._cancelled.discard)

    async def join(self) -> None:
        """Wait until all tasks have ended. Call it at shutdown, before the queue closes."""
        for task in self._cancelled:
            task.cancel()
        while self._tasks:
            await asyncio.wait(set(self._tasks))


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s failed: %s", task.get_name(), error, exc_info=error)
