"""What the engine's thread does, over and over: takes what was submitted, gives what was asked for,
and lets those whose turn it is go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from deployments.engine.adapter_residency import AdapterResidency
from deployments.engine.admission import Admission, bytes_in
from deployments.engine.codec import Codec
from deployments.engine.context import within
from deployments.engine.counts import Counts
from deployments.engine.declarations import Declarations
from deployments.engine.denoisers import KnownDenoisers
from deployments.engine.failures import is_out_of_memory
from deployments.engine.forwards import Forwards
from deployments.engine.generation import Generation
from deployments.engine.inbox import Inbox
from deployments.engine.interception import InterceptedPipeline
from deployments.engine.preview import Previews
from deployments.engine.prompt_cache import PromptCache
from deployments.engine.rooms import CommonMemory, Rooms
from deployments.engine.run import Run
from deployments.engine.runs import Runs
from deployments.engine.shortage import Shortage
from deployments.engine.step_batcher import StepBatcher
from deployments.engine.stopwatch import Stopwatch, marks_on
from deployments.engine.turns import Turns
from serve_app.domain.errors import Cancelled, Misconfigured

log = logging.getLogger(__name__)

STOPPED = "The engine was stopped."


@dataclass(frozen=True, slots=True)
class Terms:
    """As ``Engine`` takes them."""

    max_batch: int
    max_generations: int
    threads: int
    verify_merges: bool
    prompt_cache_bytes: int


class Loop:
    """``run`` is the engine's thread; what has no underscore can be called from any."""

    def __init__(
        self,
        device: str,
        inbox: Inbox,
        adapters: AdapterResidency,
        memory: CommonMemory,
        step_batcher: StepBatcher,
        monotonic: Callable[[], float],
        terms: Terms,
        declarations: Declarations,
    ) -> None:
        self.counts = Counts()
        self.stopping = False
        self.short_of_memory = False
        self._on_room: list[Callable[[], None]] = []
        self._device = device
        self._inbox = inbox
        self._adapters = adapters
        self._threads = terms.threads
        self._declarations = declarations
        self._known = KnownDenoisers()
        self._pipelines: dict[str, InterceptedPipeline] = {}
        self._shortage = Shortage(memory)
        self._admission = Admission(memory)
        self.rooms = Rooms(memory, self._shortage.relieve, inbox.wake)
        self._forwards = Forwards(
            self.counts,
            adapters.rows,
            declarations,
            max_batch=terms.max_batch,
            verify=terms.verify_merges,
            memory=memory,
            shortage=self._shortage,
            company=self._company,
        )
        prompts = PromptCache(terms.prompt_cache_bytes, self.counts)
        self.may_drop(prompts.clear)
        self.may_drop(adapters.evict_idle)
        self._previews = Previews()
        self._runs = Runs(terms.max_generations, self._fits)
        self._codec = Codec(self._forwards, prompts, declarations, self._company)
        stopwatch = Stopwatch(marks_on(device, monotonic), self.counts.took)
        self._turns = Turns(
            self._runs, self._codec, memory, step_batcher, stopwatch, self._go_on, monotonic
        )
        self._submitted = 0

    @property
    def stuck_s(self) -> float:
        """As ``Turns.stuck_s``."""
        return self._turns.stuck_s

    def on_room(self, tell: Callable[[], None]) -> None:
        """As ``Engine.on_room``."""
        self._on_room.append(tell)

    def add(self, name: str, pipeline: Any) -> None:
        """Make a pipeline known that is where it should be."""
        self._pipelines[name] = intercepted = self._intercepted(pipeline)
        if not intercepted.denoisers:
            log.warning(
                "No denoiser was found in %s (%s) as yet: its first generation runs in one go.",
                name,
                type(pipeline).__name__,
            )

    def remove(self, name: str) -> None:
        """Generations that were submitted keep it until they end."""
        del self._pipelines[name]

    def added(self, name: str) -> InterceptedPipeline:
        """The pipeline of that name; ``Misconfigured`` when there is none."""
        if (added := self._pipelines.get(name)) is None:
            raise Misconfigured(f"The engine has no pipeline {name!r}.")
        return added

    def may_drop(self, drop: Callable[[], None]) -> None:
        """As ``Engine.may_drop``."""
        self._shortage.may_drop(drop)

    def stop(self) -> None:
        """Let ``run`` end before its next turn."""
        self.stopping = True
        self._inbox.wake()

    def run(self) -> None:
        """Until ``stop``. Whatever runs then ends with ``Cancelled``."""
        torch.set_grad_enabled(mode=False)  # per thread
        if self._threads:
            torch.set_num_threads(self._threads)  # per thread as well, under OpenMP
        try:
            while not self.stopping:
                self._receive()
                self._give_snapshots()
                self._give_previews()
                self._end_cancelled()
                self._admit()
                self._turns.take()
        except BaseException:
            # Nobody is there to catch it; ``Engine.alive`` tells, and the replica is replaced.
            log.critical("The engine's thread ended by a defect.", exc_info=True)
        finally:
            self.stopping = True
            self._end_all()
            self.rooms.give_all()
            self._adapters.close()

    def _admit(self) -> None:
        self.rooms.give(self._leaves, nobody_goes=not self._runs.going)
        was_short = self.short_of_memory
        self.short_of_memory = self.rooms.wanted or self._runs.admit(self._turns.number)
        if was_short and not self.short_of_memory:
            for tell in self._on_room:
                tell()

    def _receive(self) -> None:
        """Take what was submitted; wait for it when there is nothing else to do."""
        idle = not self.rooms.asked and (self._runs.idle() or self._stands_back())
        for generation in self._inbox.take(wait=idle and not self.stopping):
            self._submitted += 1
            run = Run(generation, self._submitted, self._turns.number, self._forwards, self._codec)
            self._runs.add(run)

    def _give_snapshots(self) -> None:
        for run in self._runs:
            if run.generation.asked_for_snapshot and run.can_be_asked:
                with within(run.generation.context):
                    run.generation.give_snapshots(partial(run.snapshot, self._device))

    def _give_previews(self) -> None:
        for run in self._runs:
            asks = run.generation.previews
            # Past its last step, what it calls latents is something else.
            if asks and (step := run.generation.steps_denoised) > 0:
                with within(run.generation.context):
                    asks.give(step, partial(run.preview, self._previews))

    def _end_cancelled(self) -> None:
        for run in self._runs:
            if run.generation.cancel_requested:
                self._end(run, Cancelled("The generation was cancelled."))

    def _company(self) -> bool:
        """Whether there is more than one generation."""
        return len(self._runs) > 1

    def _fits(self, run: Run, going: Sequence[Run]) -> bool:
        kinds = {each.number: each.generation.kind for each in going}
        return self._admission.fits(run.generation.kind, kinds)

    def _stands_back(self) -> bool:
        """Whether weights are on their way, and nobody goes on meanwhile."""
        return self.rooms.wanted and not self._runs.going

    def _leaves(self, size: int) -> bool:
        going = self._runs.going
        kinds = {run.number: run.generation.kind for run in going}
        calls = [run.pending for run in going if run.pending is not None]
        forward = max((self._forwards.findings.takes(each) for each in calls), default=0)
        return self._admission.leaves(size, kinds, forward)

    def _go_on(self, run: Run) -> None:
        with within(run.generation.context):
            self._take_turn(run)

    def _take_turn(self, run: Run) -> None:
        given = 0 if run.given is None else bytes_in(run.given.output)
        try:
            with self._admission.watching(run.number, given):
                if run.given is None:
                    run.begin(self._called_by(run.generation), self._device)
                else:
                    run.go_on()
        except BaseException as error:
            if is_out_of_memory(error):
                self._shortage.explain(error, f"a generation of {run.generation.pipeline!r}")
            self._end(run, error)
            return
        if run.ended:
            self._runs.succeed(run)
            self._admission.ended(run.number, run.generation.kind, well=True)

    def _end(self, run: Run, error: BaseException) -> None:
        with within(run.generation.context):
            self._runs.end(run, error)
        self._admission.ended(run.number, run.generation.kind, well=False)

    def _called_by(self, generation: Generation) -> InterceptedPipeline:
        added, view = generation.take_called()
        return added if view is None else self._intercepted(view)

    def _intercepted(self, pipeline: Any) -> InterceptedPipeline:
        declared = self._declarations.of(type(pipeline))
        return InterceptedPipeline(pipeline, self._known, declared)

    def _end_all(self) -> None:
        self._inbox.refuse(STOPPED)
        for run in self._runs:
            self._end(run, Cancelled(STOPPED))
