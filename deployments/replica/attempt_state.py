"""State of an attempt: its phase, progress, generation, previews, lines and finished outputs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

from darkroom.reporting import MAX_LOG_LINE
from deployments.replica.resume import FinishedOutput
from deployments.replica.timeline import Timeline
from serve_app.domain.errors import (
    DarkroomError,
    InvalidInput,
    PipelineFailed,
    Unavailable,
    Unsupported,
)
from serve_app.domain.lease import Lines
from serve_app.domain.outcome import Failure
from serve_app.domain.ports import Clock
from serve_app.domain.progress import Preview, Progress, Stage

if TYPE_CHECKING:  # they import torch
    from deployments.engine.loop.generation import Generation
    from deployments.engine.preview.preview import PreviewImage as EnginePreview
    from deployments.engine.snapshot.format import Snapshot

log = logging.getLogger(__name__)

MIN_SNAPSHOT_S = 1.0  # in the engine: below this, a snapshot is not worth taking


class StopReason(StrEnum):
    """Reason for stopping an attempt early."""

    CANCELLED = "cancelled"
    FENCED = "fenced"
    HANDED_BACK = "handed_back"
    DEADLINE = "deadline"  # the request's deadline has passed
    HUNG = "hung"  # the engine or the loader hangs


class Phase(StrEnum):
    WAITING = "waiting"  # for a slot
    FETCHING = "fetching"  # the files that the input names
    LOADING = "loading"
    IN_ENGINE = "in_engine"
    DELIVERING = "delivering"
    ENDED = "ended"


class AttemptState:
    """State of one attempt. Its ``Attempt`` writes it on the event loop; the poller, the reporter,
    the snapshotter and the watchdog only read it. ``set_progress`` and ``set_step`` may be called
    on any thread."""

    def __init__(
        self,
        clock: Clock,
        on_engine_left: Callable[[], None],
        phase: Phase = Phase.LOADING,
    ) -> None:
        """``on_engine_left`` is called when the attempt does not need its slot, or not yet."""
        self.phase = phase
        self.stopped: StopReason | None = None
        self.leased_at = clock.monotonic()
        self.progress: Progress | None = None
        self.generation: Generation | None = None  # in the engine; None between two parts
        self.parts = 1  # generations of this request
        self.outputs: list[FinishedOutput] = []  # of the delivered parts
        self.in_engine_since = 0.0  # monotonic clock of the resources, s
        self.decoding_snapshot: Future[Snapshot] | None = None  # snapshot at the start of decoding
        self.timeline: Timeline | None = None  # None: the attempt is not traced
        self._clock = clock
        self._on_engine_left = on_engine_left
        self._rate = StepRate(clock)
        self._loop = asyncio.get_running_loop()
        self._ended_steps = 0  # of the generations that have ended
        self._earlier_steps = 0.0  # of the current generation, which it does not compute

    @property
    def needs_engine(self) -> bool:
        """True until the generation has ended."""
        return self.phase not in (Phase.DELIVERING, Phase.ENDED)

    @property
    def holds_slot(self) -> bool:
        return self.phase in (Phase.LOADING, Phase.IN_ENGINE) and not self.is_downloading

    @property
    def is_fetching(self) -> bool:
        """True while the files that its input names are fetched: it has no slot yet."""
        return self.phase is Phase.FETCHING

    @property
    def is_downloading(self) -> bool:
        """True while its weights are downloaded to this machine: its slot is free for others."""
        progress = self.progress
        return (
            self.phase is Phase.LOADING
            and progress is not None
            and progress.stage is Stage.DOWNLOADING
        )

    @property
    def finished(self) -> Sequence[FinishedOutput] | None:
        """The parts before the one that ``generation`` computes. None if there is only one part."""
        return None if self.parts == 1 else tuple(self.outputs)

    @property
    def steps(self) -> int:
        """Steps of the request so far, with those of finished parts of an earlier attempt."""
        done = self.generation.steps_done if self.generation is not None else 0
        return self._ended_steps + computed(done, self._earlier_steps)

    def trace(self) -> None:
        """Measure the stages from now on."""
        self.timeline = Timeline(self._clock, self.leased_at)

    def enter_stage(self, name: str | None) -> None:
        """Begin a stage of the timeline, if there is one. None: no stage goes on."""
        if self.timeline is not None:
            self.timeline.enter(name, part=len(self.outputs))

    def enter(self, phase: Phase) -> None:
        needed = self.needs_engine
        self.phase = phase
        if needed and (self.is_fetching or not self.needs_engine):
            self._on_engine_left()

    def add_resumed(self, output: FinishedOutput) -> None:
        """Add a part that an earlier attempt computed."""
        self.outputs.append(output)
        self._ended_steps += output.steps

    def begin_generation(self, earlier_steps: float = 0) -> None:
        """Enter the engine, unless an earlier part has done so. ``earlier_steps``: steps that the
        generation does not compute; infinite if it computes none."""
        self._earlier_steps = earlier_steps
        if self.phase is not Phase.IN_ENGINE:
            self.in_engine_since = self._clock.monotonic()
            self.enter(Phase.IN_ENGINE)
        self.enter_stage(None)
        self.decoding_snapshot = None

    def end_generation(self) -> None:
        self._ended_steps, self.generation = self.steps, None
        self.enter_stage(None)

    def set_progress(self, progress: Progress) -> None:
        downloading = self.is_downloading
        self.progress = self._rate.with_rate(progress)
        self.enter_stage(progress.stage.value)
        if self.is_downloading and not downloading:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._on_engine_left)

    def set_step(
        self, number: int, planned: Callable[[int], int] | None, progress: Progress
    ) -> None:
        """Set the progress of the generation of part ``number``. Steps count over all parts.

        ``planned``: function from the steps of a whole generation to those that this one makes;
        None: all.
        """
        if progress.stage is Stage.DECODING and not progress.steps:  # decoding starts
            self._request_decoding_snapshot()
        steps = progress.steps
        if planned is not None and steps and progress.stage is Stage.DENOISING:
            steps = planned(steps)
        self.set_progress(
            replace(progress, step=number * steps + progress.step, steps=self.parts * steps)
        )

    def _request_decoding_snapshot(self) -> None:
        """Take a snapshot before the first decoded chunk of a video: none can be taken between
        chunks. Skipped if computing the steps again is as quick as reading the snapshot. Runs on
        the engine's thread."""
        took_s = self._clock.monotonic() - self.in_engine_since
        if (
            self.generation is not None
            and self.decoding_snapshot is None
            and took_s >= MIN_SNAPSHOT_S
        ):
            self.decoding_snapshot = self.generation.request_snapshot()


def computed(done: int, earlier: float) -> int:
    """Steps that a generation has computed, of ``done``."""
    return int(max(0, done - earlier))


# Rate of a stage, computed from the times of its progress reports.

WINDOW_S = 10.0  # older reports are ignored, so that a changed rate shows soon
MIN_REPORTS = 4  # reports that are always kept: steps of a video can take longer than the window
MIN_INTERVAL_S = 0.05  # minimum distance of stored reports: downloads report many times a second
SLOW_START = 2.0  # a first step that takes so many times as long as the later ones does not count


class StepRate:
    """Rate of one attempt's progress. Thread-safe: encoders write frames while the engine makes the
    next ones."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stage: Stage | None = None
        self._reports: deque[tuple[float, int]] = deque()  # (time, step)
        self._begun: tuple[float, int] | None = None  # first report of the stage
        self._lock = threading.Lock()

    def with_rate(self, progress: Progress) -> Progress:
        """Add the rate to a progress report. There is one from a stage's second step on; of
        denoising from its third one on, since a model's first step may take ten times as long."""
        with self._lock:
            return self._with_rate(progress, self._clock.monotonic())

    def _with_rate(self, progress: Progress, now: float) -> Progress:
        reports = self._reports
        if progress.stage is not self._stage or (reports and reports[-1][1] > progress.step):
            self._stage = progress.stage
            reports.clear()
        if not reports or now - reports[-1][0] >= MIN_INTERVAL_S:
            reports.append((now, progress.step))
            if len(reports) == 1:
                self._begun = reports[0]
        while len(reports) > MIN_REPORTS and now - reports[0][0] > WINDOW_S:
            reports.popleft()
        if progress.stage is Stage.DENOISING and reports[0] is self._begun:
            if len(reports) < 3:
                return progress
            if _pace(reports[0], reports[1]) * SLOW_START < _pace(reports[1], reports[-1]):
                reports.popleft()
        began, first = reports[0]
        if progress.step <= first or now <= began:
            return progress
        return replace(progress, rate=(progress.step - first) / (now - began))


def _pace(earlier: tuple[float, int], later: tuple[float, int]) -> float:
    """Steps a second between two reports."""
    return (later[1] - earlier[1]) / (later[0] - earlier[0])


# Live previews, made one at a time while a client watches.


class Previewer:
    """Preview of one attempt. ``want`` requests the next one. It is taken from the engine after the
    next step, encoded by ``encoders``, and kept until ``take``. Requests that come faster than
    previews are merged, so reports set the rate: at most one preview each.

    Call ``want``, ``take``, ``follow`` and ``unfollow`` on one event loop. The callbacks on the
    engine's and the encoders' threads only set attributes.
    """

    def __init__(self, encoders: Executor, *, marked: bool = False) -> None:
        """``marked``: previews say that they are AI-generated."""
        self._encoders = encoders
        self._marked = marked
        self._generation: Generation | None = None
        self._pending: Future[EnginePreview] | None = None
        self._wanted = False
        self._step = 0  # of the newest preview
        self._ready: Preview | None = None
        self._failed = False  # an encoding failed, and this has been logged

    def follow(self, generation: Generation) -> None:
        """Take previews from ``generation``. An earlier ``want`` still counts."""
        if self._pending is not None:  # of the generation before
            self._pending.cancel()
        self._generation, self._step, self._pending, self._failed = generation, 0, None, False
        if self._wanted:
            self.want()

    def unfollow(self) -> None:
        """Stop previews: the generation has ended, or no client may watch any more."""
        pending, self._generation, self._ready = self._pending, None, None
        if pending is not None:
            pending.cancel()

    def want(self) -> None:
        self._wanted = True
        if self._generation is None or self._pending is not None or self._ready is not None:
            return
        self._wanted = False
        self._pending = pending = self._generation.request_preview(after=self._step)
        pending.add_done_callback(self._on_taken)

    def take(self) -> Preview | None:
        """Return a new preview, once. None if there is none."""
        ready, self._ready = self._ready, None
        return ready

    def _on_taken(self, pending: Future[EnginePreview]) -> None:
        """Encode the preview. Usually called on the engine's thread."""
        if pending.cancelled():
            return
        error = pending.exception()
        if error is None:
            try:
                self._encoders.submit(self._encode, pending.result())
            except RuntimeError:  # the encoders are closed
                log.debug("A preview arrived after the replica closed.")
            return
        # ``_pending`` stays set: a generation without a preview will not have one later either.
        level = logging.DEBUG if isinstance(error, Unsupported) else logging.WARNING
        log.log(level, "No preview of this generation: %s", error)

    def _encode(self, preview: EnginePreview) -> None:
        """Encode a preview. A failure does not stop the generation or the next preview."""
        try:
            ready = Preview(preview.step, preview.jpeg(marked=self._marked))
        except Exception as error:
            if not self._failed:
                log.warning("A preview could not be encoded.", exc_info=error)
            self._failed, self._step, self._pending = True, preview.step, None
            return
        if self._generation is not None:
            self._step, self._ready = ready.step, ready
        self._pending = None


# Conversion of errors to the failure that a client sees.


OF_THE_MACHINE = {
    errno.ENOSPC: "its disk is full",
    errno.EDQUOT: "its user may write no more to its disk",
    errno.EIO: "its disk cannot be read or written",
    errno.EMFILE: "it has too many open files",
    errno.ENFILE: "its machine has too many open files",
}
"""Errors of the system that are the replica's, not the request's: another one may have room."""


def as_failure(error: Exception) -> Failure:
    """Failure for the owner of the request. It contains neither a traceback nor a path of the
    replica's own files."""
    if isinstance(error, OSError) and (why := OF_THE_MACHINE.get(error.errno or 0)):
        error = Unavailable(f"The replica cannot go on: {why}. Another replica may have room.")
    if not isinstance(error, DarkroomError):
        error = PipelineFailed(f"{type(error).__name__}: {error}")
    failure = Failure(error.code, error.message, error.retryable)
    if isinstance(error, InvalidInput) and error.problems:
        first = error.problems[0]
        field = ".".join(str(part) for part in first.loc[1:])
        failure = replace(failure, field=field, type=first.type, context=first.context)
    return failure


MAX_PRINTED = 2**20
"""Characters of the lines that wait for a report. The oldest ones above that are dropped."""


class PrintedLines:
    """The last lines that were printed, level and text, which reports and the finish deliver. Long
    lines are cut.

    A report that is lost gives its lines back. The finish waits for the report before it, since the
    log takes no lines of a report that arrives after the end.
    """

    def __init__(self, most: int = 0) -> None:
        """``most``: lines that are kept; 0 for what prints none."""
        self._lines: deque[tuple[str, str]] = deque()
        self._most = most
        self._size = 0  # characters
        self._settled = asyncio.Event()
        self._settled.set()

    def append(self, level: str, text: str) -> None:
        self._keep(((level, text[:MAX_LOG_LINE]),))

    def take(self) -> Lines:
        """Lines for a report or the finish. Call ``reported`` after a report with any."""
        taken = tuple(self._lines)
        self._lines.clear()
        self._size = 0
        if taken:
            self._settled.clear()
        return taken

    def reported(self, lost: Lines = ()) -> None:
        """The report is over, and ``lost`` may not have arrived."""
        later = tuple(self._lines)
        self._lines.clear()
        self._size = 0
        self._keep((*lost, *later))
        self._settled.set()

    async def settled(self) -> None:
        """Return when no report has any of the lines."""
        await self._settled.wait()

    def _keep(self, lines: Lines) -> None:
        self._lines += lines
        self._size += sum(len(text) for _, text in lines)
        while len(self._lines) > self._most or self._size > MAX_PRINTED:
            self._size -= len(self._lines.popleft()[1])
