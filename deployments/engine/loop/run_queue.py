"""The runs inside an engine: which wait for a place, and which have one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from math import inf

from deployments.engine.context import within
from deployments.engine.failures import as_callers_error
from deployments.engine.run import Run
from serve_app.domain.errors import DarkroomError

log = logging.getLogger(__name__)

PASSED = 8
"""So many later ones that had less time left may begin before one."""


class Runs:
    """For the engine's thread alone."""

    def __init__(self, most: int, fits: Callable[[Run, Sequence[Run]], bool]) -> None:
        """``most``: how many have a place at a time. ``fits``: whether there is memory for one
        more, beside those that go on."""
        self._most = most
        self._fits = fits
        self._waiting: list[Run] = []
        self._running: list[Run] = []

    def __iter__(self) -> Iterator[Run]:
        """All of them; each may be ended on the way."""
        return iter([*self._running, *self._waiting])

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting)

    @property
    def going(self) -> list[Run]:
        """Those with a place that do not stand still. Who is short of memory waits for another to
        end, unless all are."""
        able = [run for run in self._awake if not run.short_of_memory]
        return able or self._awake

    @property
    def paused(self) -> list[Run]:
        """Those with a place that stand still."""
        return [run for run in self._running if run.generation.paused]

    def add(self, run: Run) -> None:
        self._waiting.append(run)

    def idle(self) -> bool:
        """Whether nothing can be done before somebody comes or wakes the engine."""
        return not self.going and not (self._room and self._able_to_begin())

    def admit(self, turn: int) -> bool:
        """Give places to those that wait: by priority, then by deadline, then in their order; who
        was passed by ``PASSED`` later ones goes before others of its priority. Those that wait for
        their adapters, or stand still, let others pass; those that wait for memory do not, or
        smaller ones would keep it from them. True where one waits for memory."""
        if not self._room and all(run.adapters is None for run in self._waiting):
            return False
        # Without room as well: adapters are loaded meanwhile.
        for run in self._able_to_begin()[: self._room]:
            if not self._fits(run, self._awake):
                return True
            self._waiting.remove(run)
            for other in self._waiting:
                other.passed += other.number < run.number
            run.last_turn = turn
            self._running.append(run)
        return False

    def holds_back(self, run: Run) -> bool:
        """Whether ``run``, whose call did not fit in memory, waits until another has ended: nothing
        is lost as long as there is another that goes on."""
        run.short_of_memory = any(
            not other.short_of_memory for other in self._awake if other is not run
        )
        return run.short_of_memory

    def succeed(self, run: Run) -> None:
        """It has returned what its pipeline makes."""
        self._leave(run)
        output = run.output
        run.close()
        run.generation.succeed(output)

    def end(self, run: Run, error: BaseException) -> None:
        """It gets no further step; its caller gets ``error``."""
        self._leave(run)
        try:
            run.interrupt()
        except BaseException:
            log.exception("A pipeline failed while it was being ended.")
        if not isinstance(error, DarkroomError):
            error = as_callers_error(error)
        run.generation.fail(error)

    def _leave(self, run: Run) -> None:
        if run in self._waiting:
            self._waiting.remove(run)
            return
        self._running.remove(run)
        for other in self._running:
            other.short_of_memory = False  # there is more now

    @property
    def _awake(self) -> list[Run]:
        return [run for run in self._running if not run.generation.paused]

    @property
    def _room(self) -> int:
        return max(0, self._most - len(self._running))

    def _able_to_begin(self) -> list[Run]:
        waiting = [run for run in self._waiting if not run.generation.paused]
        waiting.sort(key=_rank)
        return [run for run in waiting if self._has_adapters(run)]

    def _has_adapters(self, run: Run) -> bool:
        if run.adapters is None:
            return True
        with within(run.generation.context):
            try:
                return run.adapters.ready()
            except BaseException as error:
                self.end(run, error)
                return False


def _rank(run: Run) -> tuple[float, ...]:
    patient = run.passed < PASSED
    deadline = run.generation.deadline if patient else -inf
    return (-run.generation.priority, deadline, run.number)
