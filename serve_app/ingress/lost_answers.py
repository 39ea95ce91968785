"""Answers that are known to be lost, until the queue has that in writing."""

from __future__ import annotations

import asyncio

from serve_app.domain.request import NewRequest


class LostAnswers:
    """A client whose connection broke while its request was being stored tries again at once. Its
    second submit has to wait until the first is stored and noted, or it would find nothing."""

    def __init__(self) -> None:
        self._noting: dict[tuple[str | None, bytes], set[asyncio.Task[None]]] = {}

    def noting(self, new: NewRequest, task: asyncio.Task[None]) -> None:
        """``task`` stores ``new`` and then notes that its answer was lost."""
        alike = (new.replay_key, new.body_digest)
        self._noting.setdefault(alike, set()).add(task)
        task.add_done_callback(lambda done: self._noted(alike, done))

    async def noted(self, new: NewRequest) -> None:
        """Wait until all of the same API key and body are noted that are known of here."""
        if tasks := self._noting.get((new.replay_key, new.body_digest)):
            await asyncio.wait(tuple(tasks))

    def _noted(self, alike: tuple[str | None, bytes], task: asyncio.Task[None]) -> None:
        tasks = self._noting[alike]
        tasks.discard(task)
        if not tasks:
            del self._noting[alike]
