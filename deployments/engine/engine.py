"""The engine: steps several generations together, on one thread, without locks.

Each generation runs the unmodified ``__call__`` of its pipeline as a greenlet. Where the pipeline
calls its denoiser, a text encoder or its autoencoder, it is suspended and the call handed to the
engine, which computes it when it is that generation's turn, together with others that can share a
forward.
So generations join and leave a batch at every step, a cancelled one ends at its next step, and the
failure of one is nobody else's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from types import TracebackType
from typing import Any

import torch

from deployments.engine.adapter import Adapter
from deployments.engine.adapter_residency import AdapterResidency
from deployments.engine.admission import Admission, bytes_in
from deployments.engine.chunks import OnFrames
from deployments.engine.codec import Codec
from deployments.engine.counts import Counts
from deployments.engine.denoisers import KnownDenoisers
from deployments.engine.device_memory import DeviceMemory, memory_of
from deployments.engine.failures import is_out_of_memory
from deployments.engine.forwards import Forwards
from deployments.engine.generation import Generation, OnProgress
from deployments.engine.inbox import Inbox
from deployments.engine.interception import InterceptedPipeline
from deployments.engine.placement import Placement, placed_by
from deployments.engine.preview import Previews
from deployments.engine.prompt_cache import PromptCache
from deployments.engine.run import Run
from deployments.engine.runs import Runs
from deployments.engine.shortage import Shortage
from deployments.engine.snapshot import Origin, Snapshot
from deployments.engine.step_batcher import StepBatcher
from deployments.engine.turns import Turns
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import Cancelled, Misconfigured, ReplicaDied

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
        adapter_bytes: int = 2**30,
        memory: DeviceMemory | None = None,
        step_batcher: StepBatcher | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``pipeline``: for the calls of ``submit`` that name none; more can be added.

        ``max_batch``: most calls that share a forward; 1: each runs alone, bit for bit as without
        the engine. ``max_generations``: how many run at a time, the others wait; 0: ``max_batch``.
        ``threads``: torch's on a CPU; 0: torch's own choice. ``verify_merges``: compare the first
        merge of each signature with what its calls give alone, and do not merge what differs.
        ``prompt_cache_bytes``: of what text encoders made, on the device; 0: nothing is kept.
        ``adapter_bytes``: of adapters on the device, in use or kept for the next. ``memory``: what
        says how much is free; None: the device, and on a CPU nothing is limited.
        """
        if isinstance(pipeline, str):
            raise Misconfigured(
                f"The engine's first argument is a pipeline. Write device={pipeline!r}."
            )
        self.device = device
        self.max_generations = max_generations or max_batch
        self._pipeline = pipeline
        self._threads = threads
        self._monotonic = monotonic
        self._counts = Counts()
        self._inbox = Inbox()
        self._adapters = AdapterResidency(adapter_bytes, device, self._inbox.wake)
        self._memory = memory or memory_of(device)
        self._shortage = Shortage(self._memory)
        self._admission = Admission(self._memory)
        self._forwards = Forwards(
            self._counts,
            self._adapters.rows,
            max_batch=max_batch,
            verify=verify_merges,
            memory=self._memory,
            shortage=self._shortage,
            company=self._company,
        )
        prompts = PromptCache(prompt_cache_bytes, self._counts)
        self._previews = Previews()
        self.may_drop(prompts.clear)
        self.may_drop(self._adapters.evict_idle)
        self._known = KnownDenoisers()
        self._pipelines: dict[str, InterceptedPipeline] = {}
        self._runs = Runs(self.max_generations, self._fits)
        self._codec = Codec(self._forwards, prompts, self._company)
        self._turns = Turns(
            self._runs,
            self._codec,
            self._memory,
            step_batcher or StepBatcher(),
            self._go_on,
            monotonic,
        )
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

    @property
    def stuck_s(self) -> float:
        """For how long the present turn takes, if that is ten times the longest before; else 0."""
        return self._turns.stuck_s

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

    def may_drop(self, drop: Callable[[], None]) -> None:
        """``drop``: lets go of device memory that nobody uses at the moment. It is called, on the
        engine's thread, when a generation does not fit otherwise."""
        self._shortage.may_drop(drop)

    def submit(
        self,
        *,
        pipeline: str = _ONLY,
        view: Any = None,
        adapters: Sequence[Adapter] = (),
        on_progress: OnProgress | None = None,
        on_frames: OnFrames | None = None,
        priority: int = 0,
        deadline_s: float | None = None,
        deterministic: bool = False,
        snapshot: bytes | None = None,
        keep_outputs_bytes: int = 0,
        **arguments: Any,
    ) -> Generation:
        """Run ``pipeline(**arguments)`` among the others.

        ``priority``: higher goes first. ``deadline_s``: seconds from now; of equal priority, the
        earliest goes first. Nothing happens when it has passed. ``deterministic``: none of its
        calls share a forward, so that others cannot change a bit of it. ``view``: a pipeline over
        the same weights to call in place of the added one (``views.view_of``). ``adapters``: for
        this generation alone; they may differ among those that share a forward. ``snapshot``: of a
        generation with the same arguments and adapters, to go on from; ``SnapshotRefused`` for one
        that does not fit, here or by the result. ``keep_outputs_bytes``: so much of the denoiser's
        outputs is kept for snapshots, which then work for any pipeline. ``on_frames``: for a
        pipeline that decodes one clip at its end and does nothing more with it; gets the frames as
        they are decoded, on the engine's thread, where the autoencoder makes them one after
        another, and then the result has but a corner of each.
        """
        if pipeline not in self._pipelines:
            raise Misconfigured(f"The engine has no pipeline {pipeline!r}.")
        if self._closing or not self.alive:
            raise ReplicaDied("The engine is not running.")
        added = self._pipelines[pipeline].pipeline
        begin_with = None if snapshot is None else Snapshot.of_bytes(snapshot)
        if begin_with is not None:
            called = added if view is None else view
            begin_with.require(Origin.here(called, arguments, self.device))
        generation = Generation(
            pipeline,
            arguments,
            view=view,
            adapters=self._adapters.borrow(added, adapters) if adapters else None,
            priority=priority,
            deadline=inf if deadline_s is None else self._monotonic() + deadline_s,
            deterministic=deterministic,
            snapshot=begin_with,
            keep_outputs_bytes=keep_outputs_bytes,
            on_progress=on_progress,
            on_frames=on_frames,
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
        return self._memory.free() or 0

    def device_bytes(self) -> int:
        """The device's memory in all; 0 where the device is the CPU."""
        return self._memory.total() or 0

    def _loop(self) -> None:
        torch.set_grad_enabled(mode=False)  # per thread
        if self._threads:
            torch.set_num_threads(self._threads)  # per thread as well, under OpenMP
        try:
            while not self._closing:
                self._receive()
                self._give_snapshots()
                self._give_previews()
                self._end_cancelled()
                self._runs.admit(self._turns.number)
                self._turns.take()
        except BaseException:
            # Nobody is there to catch it; ``alive`` tells, and the replica is replaced.
            log.critical("The engine's thread ended by a defect.", exc_info=True)
        finally:
            self._closing = True
            self._end_all()
            self._adapters.close()

    def _receive(self) -> None:
        """Take what was submitted; wait for it when there is nothing else to do."""
        for generation in self._inbox.take(wait=self._runs.idle() and not self._closing):
            self._submitted += 1
            run = Run(generation, self._submitted, self._turns.number, self._forwards, self._codec)
            self._runs.add(run)

    def _give_snapshots(self) -> None:
        for run in self._runs:
            if run.generation.asked_for_snapshot and run.can_be_asked:
                run.generation.give_snapshots(partial(run.snapshot, self.device))

    def _give_previews(self) -> None:
        for run in self._runs:
            # Past its last step, what it calls latents is something else.
            if (step := run.generation.steps_denoised) > 0:
                run.generation.previews.give(step, partial(run.preview, self._previews))

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

    def _go_on(self, run: Run) -> None:
        given = 0 if run.given is None else bytes_in(run.given.output)
        try:
            with self._admission.watching(run.number, given):
                if run.given is None:
                    run.begin(self._called_by(run.generation), self.device)
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
        self._runs.end(run, error)
        self._admission.ended(run.number, run.generation.kind, well=False)

    def _called_by(self, generation: Generation) -> InterceptedPipeline:
        if (view := generation.take_view()) is not None:
            return InterceptedPipeline(view, self._known)
        return self._pipelines[generation.pipeline]

    def _end_all(self) -> None:
        self._inbox.refuse(_STOPPED)
        for run in self._runs:
            self._end(run, Cancelled(_STOPPED))


_STOPPED = "The engine was stopped."
