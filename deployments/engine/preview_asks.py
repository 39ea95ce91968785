"""Who has asked for a preview of a generation, from any thread."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from serve_app.domain.errors import DarkroomError, Unsupported

if TYPE_CHECKING:
    from deployments.engine.preview import Preview


class PreviewAsks:
    """Each is answered once, after the step that it waits for."""

    def __init__(self) -> None:
        self._asks: deque[tuple[int, Future[Preview]]] = deque()

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._asks)

    def add(self, after: int) -> Future[Preview]:
        asked: Future[Preview] = Future()
        self._asks.append((after, asked))
        return asked

    def give(self, step: int, make: Callable[[], Preview]) -> None:
        """For the engine: answer who waits for a step up to ``step``, all with the same one."""
        if not any(after < step for after, _ in self._asks):
            return
        made: Preview | DarkroomError | None = None
        for _ in range(len(self._asks)):
            after, asked = self._asks.popleft()
            if after >= step:
                self._asks.append((after, asked))
                continue
            if not asked.set_running_or_notify_cancel():
                continue
            made = made or _made(make)
            if isinstance(made, DarkroomError):
                asked.set_exception(made)
            else:
                asked.set_result(made)

    def refuse(self) -> None:
        """There will be none any more; the engine and callers may meet here."""
        with contextlib.suppress(IndexError):
            while True:
                _, asked = self._asks.popleft()
                if asked.set_running_or_notify_cancel():
                    asked.set_exception(Unsupported("The generation has ended."))


def _made(make: Callable[[], Preview]) -> Preview | DarkroomError:
    try:
        return make()
    except Unsupported as error:
        return error.with_traceback(None)  # it would keep the generation
