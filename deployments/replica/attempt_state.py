"""State of an attempt: its phase, progress, generation, previews, lines and finished outputs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

from deployments.replica.resume import FinishedOutput
from deployments.replica.step_rate import StepRate
from deployments.replica.timeline import Timeline
from serve_app.domain.ports import Clock
from serve_app.domain.progress import Progress, Stage

if TYPE_CHECKING:  # they import torch
    from deployments.engine.loop.generation import Generation
    from deployments.engine.snapshot.format import Snapshot


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
    def finished_outputs(self) -> Sequence[FinishedOutput] | None:
        """The parts before the one that ``generation`` computes. None if there is only one part."""
        return None if self.parts == 1 else tuple(self.outputs)

    @property
    def steps(self) -> int:
        """Steps of the request so far, with those of finished parts of an earlier attempt."""
        done = self.generation.steps_done if self.generation is not None else 0
        return self._ended_steps + computed_steps(done, self._earlier_steps)

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
        self.progress = self._rate.with_rate(progress.bounded())
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


def computed_steps(done: int, earlier: float) -> int:
    """Steps that a generation has computed, of ``done``."""
    return int(max(0, done - earlier))
