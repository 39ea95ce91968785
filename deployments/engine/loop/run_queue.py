"""Run queue of an engine: runs that wait for a place, and runs that have one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any

from deployments.engine.errors import as_callers_error
from deployments.engine.interception.isolation import run_in_context
from deployments.engine.loop.run import Run
from serve_app.domain.errors import DarkroomError

log = logging.getLogger(__name__)

MAX_OVERTAKEN = 8
"""Later runs with an earlier deadline that may begin before a waiting run."""


class RunQueue:
    """Run queue. Used on the engine's thread only."""

    def __init__(self, max_runs: int, fits: Callable[[Run, Sequence[Run]], bool]) -> None:
        """``max_runs``: number of places.

        ``fits``: whether there is memory for one more run beside those that are not paused.
        """
        self._max_runs = max_runs
        self._fits = fits
        self._waiting: list[Run] = []
        self._running: list[Run] = []

    def __iter__(self) -> Iterator[Run]:
        """Iterate over all runs, which may be ended during the iteration."""
        return iter([*self._running, *self._waiting])

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting)

    @property
    def active(self) -> list[Run]:
        """Runs with a place that are not paused.

        A run that is short of memory waits for another one to end, unless all are short of memory.
        """
        able = [run for run in self._active_runs if not run.short_of_memory]
        return able or self._active_runs

    @property
    def paused_runs(self) -> list[Run]:
        """Runs with a place that are paused."""
        return [run for run in self._running if run.generation.paused]

    def add(self, run: Run) -> None:
        self._waiting.append(run)

    def idle(self) -> bool:
        """Return whether there is nothing to do until a generation comes or the engine is woken."""
        return not self.active and not (self._free_places and self._ready_to_begin())

    def admit(self, turn: int) -> bool:
        """Give places to waiting runs: by priority, then deadline, then order of arrival.

        A run that ``MAX_OVERTAKEN`` later ones have overtaken goes before others of its priority.
        Runs that wait for their LoRAs or are paused let others pass. Runs that wait for memory do
        not, because smaller ones would keep taking it from them. Returns True when one waits for
        memory.
        """
        if not self._free_places and all(run.loras is None for run in self._waiting):
            return False
        # Also without a free place: LoRAs are loaded in the meantime.
        for run in self._ready_to_begin()[: self._free_places]:
            if not self._fits(run, self._active_runs):
                return True
            self._waiting.remove(run)
            for other in self._waiting:
                other.overtaken += other.number < run.number
            run.last_turn = turn
            self._running.append(run)
        return False

    def wait_for_memory(self, run: Run) -> bool:
        """Return whether ``run``, whose call did not fit in memory, waits until another has ended.

        It waits only while another run continues, so that not all of them wait.
        """
        run.short_of_memory = any(
            not other.short_of_memory for other in self._active_runs if other is not run
        )
        return run.short_of_memory

    def finish(self, run: Run) -> Any:
        """Remove a run that has returned its output, and return the output."""
        self._leave(run)
        output = run.output
        run.close()
        return output

    def end(self, run: Run, error: BaseException) -> None:
        """End a run with ``error`` for its caller. It gets no further step."""
        self._leave(run)
        try:
            run.interrupt()
        except BaseException:
            log.exception("A pipeline raised an error while its generation was being ended.")
        if not isinstance(error, DarkroomError):
            error = as_callers_error(error)
        run.generation.fail(error)

    def _leave(self, run: Run) -> None:
        if run in self._waiting:
            self._waiting.remove(run)
            return
        self._running.remove(run)
        for other in self._running:
            other.short_of_memory = False  # there is more memory now

    @property
    def _active_runs(self) -> list[Run]:
        return [run for run in self._running if not run.generation.paused]

    @property
    def _free_places(self) -> int:
        return max(0, self._max_runs - len(self._running))

    def _ready_to_begin(self) -> list[Run]:
        waiting = [run for run in self._waiting if not run.generation.paused]
        for run in self._waiting:
            if run.generation.paused and run.loras is not None:
                run.loras.release()  # others may need their space
        waiting.sort(key=_rank)
        return [run for run in waiting if self._has_loras(run)]

    def _has_loras(self, run: Run) -> bool:
        if run.loras is None:
            return True
        with run_in_context(run.generation.context):
            try:
                ready = run.loras.ready()
                run.generation.lora_notes = run.loras.notes
                return ready
            except BaseException as error:
                self.end(run, error)
                return False


def _rank(run: Run) -> tuple[float, ...]:
    patient = run.overtaken < MAX_OVERTAKEN
    deadline = run.generation.deadline if patient else -inf
    return (-run.generation.priority, deadline, run.number)
