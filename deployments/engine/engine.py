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
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from types import TracebackType
from typing import Any

import torch

from deployments.engine.adapter import Adapter
from deployments.engine.adapter_residency import AdapterResidency
from deployments.engine.chunks import OnFrames
from deployments.engine.declarations import Declarations
from deployments.engine.device_memory import DeviceMemory, memory_of
from deployments.engine.families.known import KNOWN
from deployments.engine.generation import Generation, OnProgress, SetUp
from deployments.engine.inbox import Inbox
from deployments.engine.loop import STOPPED, Loop, Terms
from deployments.engine.placement import placed_by
from deployments.engine.regions import rehearse
from deployments.engine.rooms import CommonMemory, Room
from deployments.engine.snapshot import Origin, Snapshot
from deployments.engine.step_batcher import StepBatcher
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import Misconfigured, ReplicaDied

log = logging.getLogger(__name__)

_ONLY = "pipeline"  # the name of the one that the engine was made with


class Engine:
    """One device, one thread, any number of pipelines. ``submit``, ``add`` and ``close`` are
    thread-safe; callbacks come on the engine's thread, in the context of ``submit``."""

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
        declarations: Declarations = KNOWN,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``pipeline``: for the calls of ``submit`` that name none; more can be added.

        ``max_batch``: most calls that share a forward; 1: each runs alone, bit for bit as without
        the engine. ``max_generations``: how many run at a time, the others wait; 0: ``max_batch``.
        ``threads``: torch's on a CPU; 0: torch's own choice. ``verify_merges``: compare the first
        merge of each signature with what its calls give alone, and do not merge what differs.
        ``prompt_cache_bytes``: of what text encoders made, on the device; 0: nothing is kept.
        ``adapter_bytes``: of adapters on the device, in use or kept for the next. ``memory``: what
        says how much is free; None: the device, and on a CPU nothing is limited. ``declarations``:
        about classes of models; ``KNOWN.also([…])`` adds yours to what the engine knows.
        """
        if isinstance(pipeline, str):
            raise Misconfigured(
                f"The engine's first argument is a pipeline. Write device={pipeline!r}."
            )
        self.device = device
        self.max_generations = max_generations or max_batch
        self._pipeline = pipeline
        self._monotonic = monotonic
        self._threads = threads
        self._declarations = declarations
        self._inbox = Inbox()
        self._adapters = AdapterResidency(adapter_bytes, device, self._inbox.wake)
        self._memory = CommonMemory(memory or memory_of(device))
        self._loop = Loop(
            device,
            self._inbox,
            self._adapters,
            self._memory,
            step_batcher or StepBatcher(),
            monotonic,
            Terms(max_batch, self.max_generations, threads, verify_merges, prompt_cache_bytes),
            declarations,
        )
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
            self._thread = threading.Thread(target=self._loop.run, name="engine", daemon=True)
            self._thread.start()

    def close(self, timeout: float | None = None) -> None:
        """End all generations with ``Cancelled`` and stop the thread. A forward that computes is
        waited for, at most ``timeout`` seconds."""
        self._loop.stop()
        if self._thread is not None:
            self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether the thread runs. It ends only with ``close()``; anything else is a defect."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def stuck_s(self) -> float:
        """For how long the present turn takes, if that is ten times the longest before; else 0."""
        return self._loop.stuck_s

    @property
    def short_of_memory(self) -> bool:
        """Whether a generation waits for memory that others take. Whoever comes then waits too."""
        return self._loop.short_of_memory

    def on_room(self, tell: Callable[[], None]) -> None:
        """``tell`` is called on the engine's thread whenever ``short_of_memory`` has ended; it must
        be quick."""
        self._loop.on_room(tell)

    def add(self, name: str, pipeline: Any, recipe: Recipe | None = None) -> None:
        """Make ``pipeline`` known, and move it to the engine's device, as far as ``recipe`` says.
        The name is free to choose."""
        placed_by(recipe, pipeline).apply(self.device)
        self.add_there(name, pipeline)

    def add_there(self, name: str, pipeline: Any) -> None:
        """As ``add``, for one that is where it should be."""
        self._loop.add(name, pipeline)

    def rehearse(self, pipeline: Any, arguments: Callable[[], Mapping[str, Any]]) -> None:
        """Have what the recipe says compiled for calls like this one, alone and merged: on this
        thread, which takes minutes, while others step. Before ``add_there``."""
        if self._threads:
            torch.set_num_threads(self._threads)  # what is compiled is for as many
        rehearse(pipeline, arguments, self._declarations)

    def remove(self, name: str) -> None:
        """Forget a pipeline. Generations that were submitted with it keep it until they end."""
        self._loop.remove(name)

    def may_drop(self, drop: Callable[[], None]) -> None:
        """``drop``: lets go of device memory that nobody uses at the moment. It is called, on the
        engine's thread, when a generation does not fit otherwise."""
        self._loop.may_drop(drop)

    @contextmanager
    def room(self, size: int, tell: Callable[[], None], *, alone: bool = False) -> Generator[Room]:
        """Device memory for weights of ``size`` bytes, set aside inside once it is ``granted``,
        which ``tell`` is told on the engine's thread; it must be quick. It is when so much is free
        beside what those that run are expected to take; until the end nobody else begins.
        ``alone``: when nobody runs, and after what is idle was dropped."""
        room = self._loop.rooms.ask(size, tell, alone=alone)
        if self._loop.stopping or not self.alive:  # it may have given the last ones already
            self._loop.rooms.give_all()
        try:
            yield room
        finally:
            self._loop.rooms.let_go(room)

    def submit(
        self,
        *,
        pipeline: str = _ONLY,
        view: Any = None,
        adapters: Sequence[Adapter] = (),
        on_progress: OnProgress | None = None,
        on_frames: OnFrames | None = None,
        set_up: SetUp | None = None,
        priority: int = 0,
        deadline_s: float | None = None,
        deterministic: bool = False,
        snapshot: bytes | None = None,
        keep_outputs_bytes: int = 0,
        **arguments: Any,
    ) -> Generation:
        """Run ``pipeline(**arguments)`` among the others.

        ``priority``: higher goes first. ``deadline_s``: seconds from now, also those that it
        waits for a place; of equal priority, the earliest goes first. Nothing happens when it has
        passed. ``deterministic``: none of its
        calls share a forward, so that others cannot change a bit of it. ``view``: a pipeline over
        the same weights to call in place of the added one (``views.view_of``). ``adapters``: for
        this generation alone; they may differ among those that share a forward. ``snapshot``: of a
        generation with the same arguments and adapters, to go on from; ``SnapshotRefused`` for one
        that does not fit, here or by the result. ``keep_outputs_bytes``: so much of the denoiser's
        outputs is kept for snapshots, which then work for any pipeline. ``on_frames``: for a
        pipeline that decodes one clip at its end and does nothing more with it; gets the frames as
        they are decoded, on the engine's thread, where the autoencoder makes them one after
        another, and then the result has but a corner of each. ``set_up``: called with the pipeline
        of this generation alone before that is; FreeU, scales of IP-adapters, attention processors
        and the solver that it sets there are no other's.
        """
        added = self._loop.added(pipeline)
        if self._loop.stopping or not self.alive:
            raise ReplicaDied("The engine is not running.")
        begin_with = None if snapshot is None else Snapshot.of_bytes(snapshot)
        if begin_with is not None:
            called = added.pipeline if view is None else view
            begin_with.require(Origin.here(called, arguments, self.device))
        generation = Generation(
            pipeline,
            arguments,
            added=added,
            view=view,
            adapters=self._adapters.borrow(added.pipeline, adapters) if adapters else None,
            priority=priority,
            deadline=inf if deadline_s is None else self._monotonic() + deadline_s,
            deterministic=deterministic,
            snapshot=begin_with,
            keep_outputs_bytes=keep_outputs_bytes,
            on_progress=on_progress,
            on_frames=on_frames,
            set_up=set_up,
            wake_engine=self._inbox.wake,
        )
        self._inbox.put(generation)
        if self._loop.stopping:  # The loop may have emptied its inbox already.
            self._inbox.refuse(STOPPED)
        return generation

    def counts(self) -> Mapping[str, Any]:
        """What was done so far, as numbers that only grow (``counts.py`` says what each is):
        ``forwards``, ``merged_calls``, ``single_calls``, ``batch_sizes``, ``not_merged`` …"""
        return self._loop.counts.copy()

    def free_bytes(self) -> int:
        """Free device memory; 0 where the device is the CPU."""
        return self._memory.free() or 0

    def device_bytes(self) -> int:
        """The device's memory in all; 0 where the device is the CPU."""
        return self._memory.total() or 0
