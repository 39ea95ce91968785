"""Handle of one pipeline run inside the engine."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass
from math import inf
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from deployments.engine.errors import release_frames
from deployments.engine.interception.isolation import run_in_context
from deployments.engine.interception.step_cache_options import settings_name
from deployments.engine.loop.options import (
    DEFAULT_OPTIONS,
    GenerationOptions,
    OnProgress,
    PipelineSetup,
)
from deployments.engine.memory.admission import memory_kind_of
from deployments.engine.snapshot.format import Snapshot
from serve_app.domain.errors import DarkroomError, SnapshotRefused, Unsupported
from serve_app.domain.progress import Progress, Stage

if TYPE_CHECKING:
    from deployments.engine.drafting.fork import Fork
    from deployments.engine.lora.residency import LoraHandle
    from deployments.engine.preview.preview import PreviewImage

# Preview requests of a generation, from any thread.


class PreviewRequests:
    """Queue of requests. Each is answered once, after the step that it waits for."""

    def __init__(self) -> None:
        self._requests: deque[tuple[int, Future[PreviewImage]]] = deque()

    def __bool__(self) -> bool:
        """Return whether there are requests."""
        return bool(self._requests)

    def add(self, after: int) -> Future[PreviewImage]:
        request: Future[PreviewImage] = Future()
        self._requests.append((after, request))
        return request

    def answer(self, step: int, make: Callable[[], PreviewImage]) -> None:
        """For the engine: answer all requests for a step up to ``step`` with the same preview."""
        if not any(after < step for after, _ in self._requests):
            return
        preview: PreviewImage | DarkroomError | None = None
        for _ in range(len(self._requests)):
            after, request = self._requests.popleft()
            if after >= step:
                self._requests.append((after, request))
                continue
            if not request.set_running_or_notify_cancel():
                continue
            preview = preview or _preview_or_error(make)
            if isinstance(preview, DarkroomError):
                request.set_exception(preview)
            else:
                request.set_result(preview)

    def refuse(self) -> None:
        """Refuse all requests. The engine's thread and callers may call it concurrently."""
        with contextlib.suppress(IndexError):
            while True:
                _, request = self._requests.popleft()
                if request.set_running_or_notify_cancel():
                    request.set_exception(Unsupported("The generation has ended."))


def _preview_or_error(make: Callable[[], PreviewImage]) -> PreviewImage | DarkroomError:
    try:
        return make()
    except Unsupported as error:
        return error.with_traceback(None)  # the traceback would keep the generation alive


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class GenerationRequest:
    """Call of a pipeline; see ``Engine.submit``."""

    pipeline: str
    arguments: dict[str, Any]
    view: Any = None
    on_progress: OnProgress | None = None
    deterministic: bool = False
    options: GenerationOptions = DEFAULT_OPTIONS


class Generation:
    """Handle of a generation, thread-safe.

    Only the engine advances it, in the context of the code that created it. Callbacks run in that
    context, too.
    """

    def __init__(
        self,
        request: GenerationRequest,
        intercepted: Any,
        *,
        loras: LoraHandle | None = None,
        snapshot: Snapshot | None = None,
        deadline: float = inf,
        wake_engine: Callable[[], None],
    ) -> None:
        """``intercepted``: the registered pipeline. ``deadline``: on the engine's clock."""
        self.context = copy_context()
        self.pipeline = request.pipeline
        # Equal kinds take the same memory.
        self.memory_kind = memory_kind_of(
            request.pipeline,
            request.view,
            request.arguments,
            settings_name(request.options.step_cache),
            request.options.part,
        )
        self.priority = request.options.priority
        self.cache_scope = request.options.cache_scope
        self.deadline = deadline
        self.deterministic = request.deterministic
        self.keep_outputs_bytes = request.options.keep_outputs_bytes
        self.on_frames = request.options.on_frames
        self.tiles = request.options.tiles
        self.step_cache = request.options.step_cache
        self.draft_point = request.options.draft
        self.snapshot_to_begin_with = snapshot
        self.progress: Progress | None = None
        self.steps_done = 0  # denoising steps; keeps its value after the end
        self._denoiser_calls = 0
        self._shared_calls = 0.0  # sum of the calls in the forwards of its own calls
        # What is not applied of its LoRAs and why, each with the number of the LoRA.
        self.lora_notes: Sequence[tuple[int, str]] = ()
        self.cancel_requested = False
        self.paused = False
        self._arguments: dict[str, Any] | None = request.arguments
        self._intercepted = intercepted
        self._view = request.view
        self._loras = loras
        self._set_up = request.options.set_up
        self._fork = request.options.fork
        self._on_progress = request.on_progress
        self._wake_engine = wake_engine
        self._snapshot_requests: deque[Future[Snapshot]] = deque()
        self.previews = PreviewRequests()  # used by the engine
        self._future: Future[Any] = Future()
        # The future must not be cancelled: only the engine knows when the run has ended.
        self._future.set_running_or_notify_cancel()

    @property
    def timer_key(self) -> tuple[str, str]:
        """Pipeline name and stage of the current computation, for counters."""
        stage = Stage.ENCODING_TEXT if self.progress is None else self.progress.stage
        return self.pipeline, stage.value

    @property
    def steps_denoised(self) -> int:
        """Completed steps while it denoises, else 0."""
        progress = self.progress
        return progress.step if progress and progress.stage is Stage.DENOISING else 0

    @property
    def mean_batch(self) -> float:
        """Mean number of calls that shared a forward pass with one of its own, itself included; 0
        before the first."""
        return self._shared_calls / max(1, self._denoiser_calls)

    def count_denoiser_call(self, calls: float) -> None:
        """For the engine: count a denoiser call in a forward pass of ``calls``."""
        self._denoiser_calls += 1
        self._shared_calls += calls

    def result(self, timeout: float | None = None) -> Any:
        """Return what the pipeline returned, with all tensors on the host.

        Raises what the pipeline raised, ``Cancelled``, ``OutOfMemory``, or ``TimeoutError`` when it
        has not ended within ``timeout`` seconds.
        """
        return self._future.result(timeout)

    def done(self) -> bool:
        return self._future.done()

    def cancel(self) -> None:
        """Stop at the next step. Does nothing when it has ended."""
        self.cancel_requested = True
        self._wake_engine()

    def pause(self) -> None:
        """Pause from the next step on, until ``resume``.

        A paused generation keeps its place and its memory, and can give snapshots. If it has not
        begun, it does not begin.
        """
        self.paused = True
        self._wake_engine()

    def resume(self) -> None:
        """Continue. Does nothing when it was not paused."""
        self.paused = False
        self._wake_engine()

    def snapshot(self, timeout: float | None = None) -> bytes:
        """Return a snapshot, from which ``submit(snapshot=…)`` with the same arguments resumes.

        This engine or another one can resume it. The snapshot is taken where the generation is
        suspended next; the generation continues unchanged.

        Raises ``SnapshotRefused`` when the generation has ended or not begun, or holds an object
        that a snapshot cannot contain, and ``TimeoutError`` after ``timeout`` seconds. Never call
        it on the engine's thread, where callbacks run: it would wait for itself.
        ``request_snapshot`` does not wait.
        """
        return self.request_snapshot().result(timeout).to_bytes()

    def request_snapshot(self) -> Future[Snapshot]:
        """Request a snapshot without waiting, from any thread; see ``snapshot``."""
        request: Future[Snapshot] = Future()
        self._snapshot_requests.append(request)
        self._wake_engine()
        if self.done():  # it may have ended before the request was added
            self._refuse_requests()
        return request

    def request_preview(self, after: int = 0) -> Future[PreviewImage]:
        """Request a small image of the current state, without waiting, from any thread.

        It is taken once more than ``after`` steps are done. Without requests, nothing is computed.
        The future raises ``Unsupported`` when the pipeline cannot give previews or has ended.
        """
        request = self.previews.add(after)
        self._wake_engine()
        if self.done():  # it may have ended before the request was added
            self._refuse_requests()
        return request

    def add_done_callback(self, callback: Callable[[Generation], object]) -> None:
        """Call ``callback`` once at the end. It must be quick.

        It is called on the engine's thread, or on the one that waits for results to be copied.
        """
        self._future.add_done_callback(lambda _: callback(self))

    def take_arguments(self) -> dict[str, Any]:
        """For the engine, once: afterwards only the running call keeps the arguments alive."""
        arguments, self._arguments = self._arguments, None
        return arguments or {}

    @property
    def snapshot_requested(self) -> bool:
        return bool(self._snapshot_requests)

    def take_snapshot(self) -> Snapshot | None:
        """For the engine, once: the snapshot to resume from, or None."""
        snapshot, self.snapshot_to_begin_with = self.snapshot_to_begin_with, None
        return snapshot

    def take_fork(self) -> Fork | None:
        """For the engine, once: the draft to go on from, or None."""
        fork, self._fork = self._fork, None
        return fork

    def answer_snapshot_requests(self, take: Callable[[], Snapshot]) -> None:
        """For the engine: answer all snapshot requests."""
        while self._snapshot_requests:
            request = self._snapshot_requests.popleft()
            if not request.set_running_or_notify_cancel():
                continue
            try:
                request.set_result(take())
            except Exception as error:
                if not isinstance(error, SnapshotRefused):
                    log.exception("A snapshot could not be taken.")
                release_frames(error)
                request.set_exception(error.with_traceback(None))  # it keeps the generation alive

    def take_pipeline_and_view(self) -> tuple[Any, Any]:
        """For the engine, once: the added pipeline, and the view to call instead of it or None."""
        called = self._intercepted, self._view
        self._intercepted = self._view = None
        return called

    def take_loras(self) -> LoraHandle | None:
        """For the engine, once: the handle of its LoRAs, or None without LoRAs."""
        loras, self._loras = self._loras, None
        return loras

    def take_set_up(self) -> PipelineSetup | None:
        """For the engine, once: the function to call with its own pipeline before the run."""
        set_up, self._set_up = self._set_up, None
        return set_up

    def report(self, progress: Progress, steps_done: int = 0) -> None:
        """For the engine: report the progress to the caller."""
        self.progress, self.steps_done = progress, steps_done
        if self._on_progress is None:
            return
        try:
            self._on_progress(progress)
        except Exception:
            # A listener's error must not affect other generations.
            log.exception("A listener for progress failed.")

    def succeed(self, output: Any) -> None:
        """For the engine: end with a result."""
        self._end()
        with run_in_context(self.context):
            self._future.set_result(output)
        self._refuse_requests()

    def fail(self, error: BaseException) -> None:
        """For the engine: end with an error."""
        self._end()
        with run_in_context(self.context):
            self._future.set_exception(error)
        self._refuse_requests()

    def _refuse_requests(self) -> None:
        with (
            run_in_context(self.context),
            contextlib.suppress(IndexError),
        ):  # the engine and callers race
            self.previews.refuse()
            while True:
                request = self._snapshot_requests.popleft()
                if request.set_running_or_notify_cancel():
                    request.set_exception(SnapshotRefused("The generation has ended."))

    def _end(self) -> None:
        self._arguments = self._intercepted = self._view = self._loras = None
        self.snapshot_to_begin_with = None
        self._on_progress = self.on_frames = self._set_up = self._fork = None


# Inbox of the engine's thread for new generations.


class GenerationInbox:
    """Queue of new generations. Thread-safe; ``take`` is for the engine's thread only."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Generation | None] = SimpleQueue()  # None: wake-up only

    def put(self, generation: Generation) -> None:
        self._queue.put(generation)

    def wake(self) -> None:
        """Make a waiting ``take`` return without a generation."""
        self._queue.put(None)

    def take(self, *, wait: bool) -> list[Generation]:
        """Take all new generations. ``wait``: block until there is one, or until ``wake``."""
        taken = [self._queue.get()] if wait else []
        while not self._queue.empty():
            taken.append(self._queue.get())
        return [generation for generation in taken if generation is not None]

    def refuse(self, why: Callable[[], DarkroomError]) -> None:
        """Fail all generations in the inbox with the error that ``why`` makes.

        Called after the engine began to close, by its loop and by late callers. Each generation is
        taken by exactly one of them.
        """
        while True:
            try:
                generation = self._queue.get_nowait()
            except Empty:
                return
            if generation is not None:
                generation.fail(why())
