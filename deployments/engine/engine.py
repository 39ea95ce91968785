"""The engine: steps several generations together, on one thread, without locks.

Each generation runs the unmodified ``__call__`` of its pipeline as a greenlet. Where the pipeline
calls its denoiser, the greenlet is suspended and the call handed to the engine, which computes it
when it is that generation's turn, together with others that can share a forward. So generations
join and leave a batch at every step, a cancelled one ends at its next step, and the failure of one
is nobody else's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from types import TracebackType
from typing import Any

import torch

from deployments.engine.counts import Counts
from deployments.engine.denoisers import KnownDenoisers
from deployments.engine.failures import as_callers_error
from deployments.engine.forwards import Forwards
from deployments.engine.generation import Generation, OnProgress
from deployments.engine.inbox import Inbox
from deployments.engine.interception import InterceptedPipeline
from deployments.engine.placement import Placement, placed_by
from deployments.engine.prompt_cache import PromptCache
from deployments.engine.run import Run
from deployments.engine.step_batcher import Candidate, StepBatcher
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import Cancelled, DarkroomError, Misconfigured, ReplicaDied

log = logging.getLogger(__name__)

_ONLY = "pipeline"  # the name of the one that the engine was made with


class Engine:
    """One device, one thread, any number of pipelines. ``submit``, ``add`` and ``close`` are
    thread-safe; callbacks come on the engine's thread."""

    def __init__(
        self,
        pipeline: Any = None,
        device: str = "cpu",
        *,
        max_batch: int = 8,
        max_generations: int = 0,
        threads: int = 0,
        verify_merges: bool = False,
        prompt_cache_bytes: int = 64 * 2**20,
        step_batcher: StepBatcher | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``pipeline``: for the calls of ``submit`` that name none; more can be added.

        ``max_batch``: most calls that share a forward; 1: each runs alone, bit for bit as without
        the engine. ``max_generations``: how many run at a time, the others wait; 0: ``max_batch``.
        ``threads``: torch's on a CPU; 0: torch's own choice. ``verify_merges``: compare the first
        merge of each signature with what its calls give alone, and do not merge what differs.
        ``prompt_cache_bytes``: of what text encoders made, on the device; 0: nothing is kept.
        """
        if isinstance(pipeline, str):
            raise Misconfigured(
                f"The engine's first argument is a pipeline. Write device={pipeline!r}."
            )
        self.device = device
        self.max_generations = max_generations or max_batch
        self._pipeline = pipeline
        self._threads = threads
        self._step_batcher = step_batcher or StepBatcher()
        self._monotonic = monotonic
        self._counts = Counts()
        self._forwards = Forwards(
            self._counts, max_batch=max_batch, verify=verify_merges, device=device
        )
        self._prompts = PromptCache(prompt_cache_bytes, self._counts)
        self._known = KnownDenoisers()
        self._pipelines: dict[str, InterceptedPipeline] = {}
        self._inbox = Inbox()
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
            if self._pipeline is not None:
                self.add(_ONLY, self._pipeline)
            self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
            self._thread.start()

    def close(self, timeout: float | None = None) -> None:
        """End all generations with ``Cancelled`` and stop the thread. A forward that computes is
        waited for, at most ``timeout`` seconds."""
        self._closing = True
        self._inbox.wake()
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
        self._pipelines[name] = intercepted = InterceptedPipeline(pipeline, self._known)
        if not intercepted.denoisers:
            log.warning(
                "No denoiser was found in %s (%s) as yet: its first generation runs in one go.",
                name,
                type(pipeline).__name__,
            )

    def remove(self, name: str) -> None:
        """Forget a pipeline. Generations that run with it keep it until they end."""
        del self._pipelines[name]

    def submit(
        self,
        *,
        pipeline: str = _ONLY,
        view: Any = None,
        on_progress: OnProgress | None = None,
        priority: int = 0,
        deadline_s: float | None = None,
        deterministic: bool = False,
        **arguments: Any,
    ) -> Generation:
        """Run ``pipeline(**arguments)`` among the others.

        ``priority``: higher goes first. ``deadline_s``: seconds from now; of equal priority, the
        earliest goes first. Nothing happens when it has passed. ``deterministic``: none of its
        calls share a forward, so that others cannot change a bit of it. ``view``: a pipeline over
        the same weights to call in place of the added one (``views.view_of``).
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
            deadline=inf if deadline_s is None else self._monotonic() + deadline_s,
            deterministic=deterministic,
            on_progress=on_progress,
            wake_engine=self._inbox.wake,
        )
        self._inbox.put(generation)
        if self._closing:  # The loop may have emptied its inbox already.
            self._inbox.refuse(_STOPPED)
        return generation

    def counts(self) -> Mapping[str, Any]:
        """What was done so far, as numbers that only grow (``counts.py`` says what each is):
        ``forwards``, ``merged_calls``, ``single_calls``, ``batch_sizes``, ``not_merged`` …"""
        return self._counts.copy()

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
        idle = not (self._running or self._waiting or self._closing)
        for generation in self._inbox.take(wait=idle):
            self._submitted += 1
            run = Run(generation, self._submitted, self._turn, self._forwards, self._prompts)
            self._waiting.append(run)

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
        self._turn += 1
        runs = {run.number: run for run in self._running}
        candidates = [self._candidate(run) for run in self._running]
        chosen = self._step_batcher.choose(candidates, self._turn)
        going = [runs[each.generation] for each in chosen]
        for run in going:
            run.last_turn = self._turn
        self._compute(going)
        for run in going:
            self._go_on(run)

    def _compute(self, going: Sequence[Run]) -> None:
        """The answers stay with the runs: an error's traceback keeps the frames of this thread."""
        calls = [run.pending for run in going if run.pending is not None]
        if not calls:
            return
        answers = self._forwards.compute(calls, in_company=self._in_company(going))
        for run, answer in zip(going, answers, strict=True):
            run.given = answer

    def _candidate(self, run: Run) -> Candidate:
        pending = run.pending
        return Candidate(
            generation=run.number,
            priority=run.generation.priority,
            last_turn=run.last_turn,
            key=None if pending is None else pending.key,
            deadline=run.generation.deadline,
            remaining=run.remaining,
            most=1 if pending is None else self._forwards.most(pending),
        )

    def _in_company(self, going: Sequence[Run]) -> bool:
        """Whether somebody waits for the same denoiser and does not go."""
        modules = [run.pending.call.module for run in going if run.pending is not None]
        return any(
            run.pending is not None and run.pending.call.module is modules[0]
            for run in self._running
            if run not in going
        )

    def _go_on(self, run: Run) -> None:
        try:
            if run.given is None:
                run.begin(self._called_by(run.generation))
            else:
                run.go_on()
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
            return InterceptedPipeline(view, self._known)
        return self._pipelines[generation.pipeline]

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
        self._inbox.refuse(_STOPPED)
        for run in [*self._running, *self._waiting]:
            self._end(run, Cancelled(_STOPPED))


_STOPPED = "The engine was stopped."
