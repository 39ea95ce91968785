"""How generations reach the engine's thread."""

from __future__ import annotations

from queue import Empty, SimpleQueue

from deployments.engine.generation import Generation
from serve_app.domain.errors import Cancelled


class Inbox:
    """Thread-safe; ``take`` is for the engine's thread alone."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Generation | None] = SimpleQueue()  # None: look around

    def put(self, generation: Generation) -> None:
        self._queue.put(generation)

    def wake(self) -> None:
        """Let a waiting ``take`` return, though there is nothing to take."""
        self._queue.put(None)

    def take(self, *, wait: bool) -> list[Generation]:
        """All that has come. ``wait``: for the next, or for ``wake``, when there is nothing."""
        taken = [self._queue.get()] if wait else []
        while not self._queue.empty():
            taken.append(self._queue.get())
        return [each for each in taken if each is not None]

    def refuse(self, why: str) -> None:
        """End what nobody will take any more. Called after the engine began to close, by its loop
        and by late callers; each generation is met by exactly one of them."""
        while True:
            try:
                generation = self._queue.get_nowait()
            except Empty:
                return
            if generation is not None:
                generation.fail(Cancelled(why))
