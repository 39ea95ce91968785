"""One run of a pipeline inside the engine, as its caller sees it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from math import inf
from typing import Any

from serve_app.domain.progress import Progress, Stage

log = logging.getLogger(__name__)

OnProgress = Callable[[Progress], None]


class Generation:
    """A handle: safe to use from any thread. The engine alone moves it on."""

    def __init__(
        self,
        pipeline: str,
        arguments: dict[str, Any],
        *,
        view: Any = None,
        priority: int,
        deadline: float = inf,
        deterministic: bool = False,
        on_progress: OnProgress | None,
        wake_engine: Callable[[], None],
    ) -> None:
        self.pipeline = pipeline
        self.priority = priority
        self.deadline = deadline  # on the engine's clock
        self.deterministic = deterministic
        self.progress: Progress | None = None
        self.cancel_requested = False
        self._arguments: dict[str, Any] | None = arguments
        self._view = view
        self._on_progress = on_progress
        self._wake_engine = wake_engine
        self._future: Future[Any] = Future()
        # It is not for the future to be cancelled: only the engine knows when the run has ended.
        self._future.set_running_or_notify_cancel()

    @property
    def steps_done(self) -> int:
        """Denoising steps, also after the end."""
        progress = self.progress
        if progress is None or progress.stage is Stage.ENCODING_TEXT:
            return 0
        return progress.step

    def result(self, timeout: float | None = None) -> Any:
        """What the pipeline returned. Raises what it raised, ``Cancelled``, ``OutOfMemory``, or
        ``TimeoutError`` when it has not ended within ``timeout`` seconds."""
        return self._future.result(timeout)

    def done(self) -> bool:
        return self._future.done()

    def cancel(self) -> None:
        """Stop at the next step. Nothing happens when it has ended."""
        self.cancel_requested = True
        self._wake_engine()

    def add_done_callback(self, callback: Callable[[Generation], object]) -> None:
        """Call back once when it has ended, on the engine's thread: be quick, and do not block."""
        self._future.add_done_callback(lambda _: callback(self))

    def take_arguments(self) -> dict[str, Any]:
        """For the engine, once: afterwards only the running call keeps them alive."""
        arguments, self._arguments = self._arguments, None
        return arguments or {}

    def take_view(self) -> Any:
        """For the engine, once: the pipeline to call in place of the added one, or None."""
        view, self._view = self._view, None
        return view

    def report(self, progress: Progress) -> None:
        """For the engine: tell the caller how far it is."""
        self.progress = progress
        if self._on_progress is None:
            return
        try:
            self._on_progress(progress)
        except Exception:
            # The engine serves others as well; a listener's mistake is not theirs.
            log.exception("A listener for progress failed.")

    def succeed(self, output: Any) -> None:
        """For the engine."""
        self._end()
        self._future.set_result(output)

    def fail(self, error: BaseException) -> None:
        """For the engine."""
        self._end()
        self._future.set_exception(error)

    def _end(self) -> None:
        self._arguments = self._view = None
        self._on_progress = None
