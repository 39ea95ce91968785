"""Turns of the engine: who computes now, together with whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deployments.engine.codec import Codec
from deployments.engine.device_memory import DeviceMemory
from deployments.engine.run import Run
from deployments.engine.runs import Runs
from deployments.engine.step_batcher import Candidate, StepBatcher
from deployments.engine.stopwatch import Stopwatch

STUCK = 10
"""So many times the longest turn before, a turn is thought to hang."""


class Turns:
    """For the engine's thread alone, but for ``stuck_s``."""

    def __init__(
        self,
        runs: Runs,
        codec: Codec,
        memory: DeviceMemory,
        step_batcher: StepBatcher,
        stopwatch: Stopwatch,
        go_on: Callable[[Run], None],
        monotonic: Callable[[], float],
    ) -> None:
        """``stopwatch``: its laps are of a pipeline's name and a stage. ``go_on``: lets a run
        take what it was given, up to its next call."""
        self.number = 0  # of the present one, from 1
        self._runs = runs
        self._codec = codec
        self._memory = memory
        self._step_batcher = step_batcher
        self._stopwatch = stopwatch
        self._go_on = go_on
        self._monotonic = monotonic
        self._began: float | None = None
        self._longest_s = 0.0

    @property
    def stuck_s(self) -> float:
        """For how long the present turn takes, if that is ten times the longest before; else 0."""
        began = self._began
        took_s = 0.0 if began is None else self._monotonic() - began
        return took_s if took_s > STUCK * self._longest_s else 0.0

    def take(self) -> None:
        self._began = began = self._monotonic()
        self.number += 1
        for run in self._runs.paused:
            run.last_turn = self.number  # it does not wait for its turn
        runs = {run.number: run for run in self._runs.going}
        free = self._memory.free()
        candidates = [self._candidate(run, free) for run in runs.values()]
        chosen = self._step_batcher.choose(candidates, self.number)
        going = [runs[each.generation] for each in chosen]
        for run in going:
            run.last_turn = self.number
        self._stopwatch.start()
        for run in self._compute(going):
            lap = run.generation.lap
            self._go_on(run)
            self._stopwatch.lap(lap)
        self._began = None
        self._longest_s = max(self._longest_s, self._monotonic() - began)

    def _compute(self, going: Sequence[Run]) -> Sequence[Run]:
        """Those that can go on. The answers stay with the runs: an error's traceback keeps the
        frames of this thread."""
        calls = [run.pending for run in going if run.pending is not None]
        if not calls:
            return going
        answers = self._codec.compute(calls, in_company=self._in_company(going))
        self._stopwatch.lap(going[0].generation.lap)
        able = list[Run]()
        for run, answer in zip(going, answers, strict=True):
            if answer.did_not_fit and self._runs.holds_back(run):
                continue
            run.given = answer
            able.append(run)
        return able

    def _candidate(self, run: Run, free: int | None) -> Candidate:
        pending = run.pending
        return Candidate(
            generation=run.number,
            priority=run.generation.priority,
            last_turn=run.last_turn,
            key=None if pending is None else pending.key,
            deadline=run.generation.deadline,
            remaining=run.remaining,
            most=1 if pending is None else self._codec.most(pending, free),
            steps=pending is None or pending.call.is_step,
            fresh=run.fresh,
            prepares=run.fresh and pending is not None and pending.call.ahead > 0,
            again=run.again,
            pipeline=run.generation.pipeline,
        )

    def _in_company(self, going: Sequence[Run]) -> bool:
        """Whether somebody waits for the same module and does not go."""
        modules = [run.pending.call.module for run in going if run.pending is not None]
        return any(
            run.pending is not None and run.pending.call.module is modules[0]
            for run in [*self._runs.going, *self._runs.paused]
            if run not in going
        )
