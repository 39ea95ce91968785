"""The engine: steps several generations together, on one thread, without locks.

Each generation runs the unmodified ``__call__`` of its pipeline as a greenlet. Where the pipeline
calls its denoiser, the greenlet is suspended and the call handed to the engine, which computes it
when it is that generation's turn. So generations interleave step by step, a cancelled one ends at
its next step, and the failure of one is nobody else's.
"""

from __future__ import annotations

import logging
import threading
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

import torch

from deployments.engine.failures import as_callers_error
from deployments.engine.generation import Generation, OnProgress
from deployments.engine.interception import InterceptedPipeline
from deployments.engine.placement import Placement, placed_by
from deployments.engine.run import Run
from deployments.engine.step_batcher import Candidate, StepBatcher
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import Cancelled, DarkroomError, Misconfigured, ReplicaDied

log = logging.getLogger(__name__)


class Engine:
    """One device, one thread, any number of pipelines. ``submit``, ``add`` and ``close`` are
    thread-safe; callbacks come on the engine's thread."""

    def __init__(
        self,
        device: str = "cpu",
        *,
        max_generations: int = 4,
        threads: int = 0,
        step_batcher: StepBatcher | None = None,
    ) -> None:
        """``threads``: torch's threads on a CPU; 0 leaves torch's own choice."""
        self.device = device
        self.max_generations = max_generations
        self._threads = threads
        self._step_batcher = step_batcher or StepBatcher()
        self._pipelines: dict[str, InterceptedPipeline] = {}
        self._inbox: SimpleQueue[Generation | None] = SimpleQueue()  # None: look around
        self._waiting: list[Run] = []
        self._running: list[Run] = []
        self._turn = 0
        self._submitted = 0
        self._closing = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
            self._thread.start()

    def close(self, timeout: float | None = None) -> None:
        """End all generations with ``Cancelled`` and stop the thread. A forward that computes is
        waited for, at most ``timeout`` seconds."""
        self._closing = True
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether the thread runs. It ends only with ``close()``; anything else is a defect."""
        return self._thread is not None and self._thread.is_alive()

    def add(self, name: str, pipeline: Any, recipe: Recipe | None = None) -> None:
        """Make ``pipeline`` known, and move it to the engine's device, as far as ``recipe`` says.
        The name is free to choose."""
        self.add_placed(name, placed_by(recipe, pipeline))

    def add_placed(self, name: str, placement: Placement) -> None:
        """As ``add``, for one who has looked first at what the placement takes."""
        pipeline = placement.pipeline
        placement.apply(self.device)
        intercepted = InterceptedPipeline(pipeline)
        if not intercepted.steps_are_visible:
            log.warning(
                "No denoiser was found in %s (%s): its generations run in one go.",
                name,
                type(pipeline).__name__,
            )
        self._pipelines[name] = intercepted

    def remove(self, name: str) -> None:
        """Forget a pipeline. Generations that run with it keep it until they end."""
        del self._pipelines[name]

    def submit(
        self,
        *,
        pipeline: str,
        view: Any = None,
        on_progress: OnProgress | None = None,
        priority: int = 0,
        **arguments: Any,
    ) -> Generation:
        """Run ``pipeline(**arguments)`` among the others. Higher ``priority`` goes first.

        ``view``: a pipeline over the same weights to call in its place (``views.view_of``).
        """
        if pipeline not in self._pipelines:
            raise Misconfigured(f"The engine has no pipeline {pipeline!r}.")
        if self._closing or not self.alive:
            raise ReplicaDied("The engine is not running.")
        generation = Generation(
            pipeline,
            arguments,
            view=view,
            priority=priority,
            on_progress=on_progress,
            wake_engine=self._wake,
        )
        self._inbox.put(generation)
        if self._closing:  # The loop may have emptied its inbox already.
            self._refuse_submitted()
        return generation

    def free_bytes(self) -> int:
        """Free device memory; 0 where the device is the CPU."""
        return self._memory()[0]

    def device_bytes(self) -> int:
        """The device's memory in all; 0 where the device is the CPU."""
        return self._memory()[1]

    def _memory(self) -> tuple[int, int]:
        if not self.device.startswith("cuda"):
            return 0, 0
        return torch.cuda.mem_get_info(self.device)

    def _wake(self) -> None:
        self._inbox.put(None)

    def _loop(self) -> None:
        torch.set_grad_enabled(mode=False)  # per thread
        if self._threads:
            torch.set_num_threads(self._threads)  # per thread as well, under OpenMP
        try:
            while not self._closing:
                self._receive()
                self._end_cancelled()
                self._admit()
                self._take_turn()
        except BaseException:
            # Nobody is there to catch it; ``alive`` tells, and the replica is replaced.
            log.critical("The engine's thread ended by a defect.", exc_info=True)
        finally:
            self._closing = True
            self._end_all()

    def _receive(self) -> None:
        """Take what was submitted; wait for it when there is nothing else to do."""
        while not self._inbox.empty() or not (self._running or self._waiting or self._closing):
            generation = self._inbox.get()
            if generation is not None:
                self._submitted += 1
                self._waiting.append(Run(generation, self._submitted, self._turn))
            elif not (self._running or self._waiting):
                return

    def _end_cancelled(self) -> None:
        for run in [*self._running, *self._waiting]:
            if run.generation.cancel_requested:
                self._end(run, Cancelled("The generation was cancelled."))

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self.max_generations:
            best = min(self._waiting, key=lambda run: (-run.generation.priority, run.number))
            self._waiting.remove(best)
            best.last_turn = self._turn
            self._running.append(best)

    def _take_turn(self) -> None:
        runs = {run.number: run for run in self._running}
        candidates = [
            Candidate(
                generation=run.number,
                priority=run.generation.priority,
                last_turn=run.last_turn,
                key=run.pending.key if run.pending is not None else None,
            )
            for run in self._running
        ]
        self._turn += 1
        for chosen in self._step_batcher.choose(candidates, self._turn):
            self._advance(runs[chosen.generation])

    def _advance(self, run: Run) -> None:
        run.last_turn = self._turn
        try:
            if run.pending is None:
                run.begin(self._called_by(run.generation))
            else:
                self._step(run)
        except BaseException as error:
            self._end(run, error)
            return
        if run.ended:
            self._running.remove(run)
            output = run.output
            run.close()
            run.generation.succeed(output)

    def _called_by(self, generation: Generation) -> InterceptedPipeline:
        if (view := generation.take_view()) is not None:
            return InterceptedPipeline(view)
        return self._pipelines[generation.pipeline]

    def _step(self, run: Run) -> None:
        try:
            output = run.forward()
        except BaseException as error:
            # The pipeline gets it where it called, so that it can clean up.
            run.throw(error)
            return
        run.answered()
        run.answer(output)

    def _end(self, run: Run, error: BaseException) -> None:
        (self._running if run in self._running else self._waiting).remove(run)
        try:
            run.interrupt()
        except BaseException:
            log.exception("A pipeline failed while it was being ended.")
        if not isinstance(error, DarkroomError):
            error = as_callers_error(error)
        run.generation.fail(error)

    def _end_all(self) -> None:
        self._refuse_submitted()
        for run in [*self._running, *self._waiting]:
            self._end(run, Cancelled(_STOPPED))

    def _refuse_submitted(self) -> None:
        """End what nobody will take from the inbox any more. Called after ``_closing`` was set, by
        the loop and by late callers; each generation is met by exactly one of them."""
        while True:
            try:
                generation = self._inbox.get_nowait()
            except Empty:
                return
            if generation is not None:
                generation.fail(Cancelled(_STOPPED))


_STOPPED = "The engine was stopped."
