"""One run of a pipeline inside the engine, as its caller sees it."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from math import inf
from typing import TYPE_CHECKING, Any

from deployments.engine.admission import kind_of
from deployments.engine.context import within
from deployments.engine.failures import release_frames
from deployments.engine.preview_asks import PreviewAsks
from deployments.engine.snapshot import Snapshot
from serve_app.domain.errors import SnapshotRefused
from serve_app.domain.progress import Progress, Stage

if TYPE_CHECKING:
    from deployments.engine.adapter_residency import AdapterLoan
    from deployments.engine.chunks import OnFrames
    from deployments.engine.preview import Preview

log = logging.getLogger(__name__)

OnProgress = Callable[[Progress], None]
SetUp = Callable[[Any], None]


class Generation:
    """A handle: safe to use from any thread. The engine alone moves it on, in the context of who
    made it; callbacks come in that, too."""

    def __init__(
        self,
        pipeline: str,
        arguments: dict[str, Any],
        *,
        added: Any,
        view: Any = None,
        adapters: AdapterLoan | None = None,
        priority: int,
        deadline: float = inf,
        deterministic: bool = False,
        snapshot: Snapshot | None = None,
        keep_outputs_bytes: int = 0,
        on_progress: OnProgress | None,
        on_frames: OnFrames | None = None,
        set_up: SetUp | None = None,
        wake_engine: Callable[[], None],
    ) -> None:
        self.context = copy_context()
        self.pipeline = pipeline
        self.kind = kind_of(pipeline, view, arguments)  # those of a kind take the same memory
        self.priority = priority
        self.deadline = deadline  # on the engine's clock
        self.deterministic = deterministic
        self.keep_outputs_bytes = keep_outputs_bytes
        self.on_frames = on_frames
        self.snapshot_to_begin_with = snapshot
        self.progress: Progress | None = None
        self.steps_done = 0  # of denoising, also after the end
        self.cancel_requested = False
        self.paused = False
        self._arguments: dict[str, Any] | None = arguments
        self._added = added
        self._view = view
        self._adapters = adapters
        self._set_up = set_up
        self._on_progress = on_progress
        self._wake_engine = wake_engine
        self._asked: deque[Future[Snapshot]] = deque()
        self.previews = PreviewAsks()  # for the engine
        self._future: Future[Any] = Future()
        # It is not for the future to be cancelled: only the engine knows when the run has ended.
        self._future.set_running_or_notify_cancel()

    @property
    def lap(self) -> tuple[str, str]:
        """For whom and what is computed now: its pipeline's name, and its stage."""
        stage = Stage.ENCODING_TEXT if self.progress is None else self.progress.stage
        return self.pipeline, stage.value

    @property
    def steps_denoised(self) -> int:
        """Those that are done while it denoises, else 0."""
        progress = self.progress
        return progress.step if progress and progress.stage is Stage.DENOISING else 0

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

    def pause(self) -> None:
        """Stand still from the next step on, until ``unpause``. It keeps its place and its memory,
        and gives snapshots; one that has not begun does not begin."""
        self.paused = True
        self._wake_engine()

    def unpause(self) -> None:
        """Go on. Nothing happens when it was not paused."""
        self.paused = False
        self._wake_engine()

    def snapshot(self, timeout: float | None = None) -> bytes:
        """What ``submit(snapshot=…)`` with the same arguments goes on from, on this or another
        engine. It is taken where the generation is suspended next, and goes on undisturbed.

        ``SnapshotRefused`` where it has ended or not begun, or holds what a snapshot cannot;
        ``TimeoutError`` after ``timeout`` seconds. Never call it on the engine's thread, where
        callbacks come: it would wait for itself. ``ask_for_snapshot`` does not wait."""
        return self.ask_for_snapshot().result(timeout).to_bytes()

    def ask_for_snapshot(self) -> Future[Snapshot]:
        """As ``snapshot``, at once, from any thread."""
        asked: Future[Snapshot] = Future()
        self._asked.append(asked)
        self._wake_engine()
        if self.done():  # It may have ended before it was asked.
            self._refuse_asks()
        return asked

    def ask_for_preview(self, after: int = 0) -> Future[Preview]:
        """A small picture of what it makes, as soon as more than ``after`` steps are done; at once,
        from any thread. Nothing is computed for who does not ask.

        The future raises ``Unsupported`` where the pipeline shows no picture, or has ended."""
        asked = self.previews.add(after)
        self._wake_engine()
        if self.done():  # It may have ended before it was asked.
            self._refuse_asks()
        return asked

    def add_done_callback(self, callback: Callable[[Generation], object]) -> None:
        """Call back once when it has ended, on the engine's thread: be quick, and do not block."""
        self._future.add_done_callback(lambda _: callback(self))

    def take_arguments(self) -> dict[str, Any]:
        """For the engine, once: afterwards only the running call keeps them alive."""
        arguments, self._arguments = self._arguments, None
        return arguments or {}

    @property
    def asked_for_snapshot(self) -> bool:
        return bool(self._asked)

    def take_snapshot(self) -> Snapshot | None:
        """For the engine, once: where to go on from, or None."""
        snapshot, self.snapshot_to_begin_with = self.snapshot_to_begin_with, None
        return snapshot

    def give_snapshots(self, take: Callable[[], Snapshot]) -> None:
        """For the engine: answer who has asked for one."""
        while self._asked:
            asked = self._asked.popleft()
            if not asked.set_running_or_notify_cancel():
                continue
            try:
                asked.set_result(take())
            except Exception as error:
                if not isinstance(error, SnapshotRefused):
                    log.exception("A snapshot could not be taken.")
                release_frames(error)
                asked.set_exception(error.with_traceback(None))  # it would keep the generation

    def take_called(self) -> tuple[Any, Any]:
        """For the engine, once: the pipeline that was added, and the one to call in place of it, or
        None."""
        called = self._added, self._view
        self._added = self._view = None
        return called

    def take_adapters(self) -> AdapterLoan | None:
        """For the engine, once: what keeps its adapters loaded, or None without any."""
        adapters, self._adapters = self._adapters, None
        return adapters

    def take_set_up(self) -> SetUp | None:
        """For the engine, once: what its own pipeline is given to before the call."""
        set_up, self._set_up = self._set_up, None
        return set_up

    def report(self, progress: Progress, steps_done: int = 0) -> None:
        """For the engine: tell the caller how far it is."""
        self.progress, self.steps_done = progress, steps_done
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
        with within(self.context):
            self._future.set_result(output)
        self._refuse_asks()

    def fail(self, error: BaseException) -> None:
        """For the engine."""
        self._end()
        with within(self.context):
            self._future.set_exception(error)
        self._refuse_asks()

    def _refuse_asks(self) -> None:
        with within(self.context), contextlib.suppress(IndexError):  # the engine and callers meet
            self.previews.refuse()
            while True:
                asked = self._asked.popleft()
                if asked.set_running_or_notify_cancel():
                    asked.set_exception(SnapshotRefused("The generation has ended."))

    def _end(self) -> None:
        self._arguments = self._added = self._view = self._adapters = None
        self.snapshot_to_begin_with = None
        self._on_progress = self.on_frames = self._set_up = None
