"""The engine: steps several generations together, on one thread, without locks.

Each generation runs the unmodified ``__call__`` of its pipeline as a greenlet. Where the pipeline
calls its denoiser, a text encoder or its autoencoder, the greenlet is suspended and passes the call
to the engine. The engine computes it when it is that generation's turn, together with calls of
other generations that can share a forward. Therefore generations join and leave a batch at every
step, a cancelled generation ends at its next step, and a failure affects only its own generation.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from types import TracebackType
from typing import Any, Unpack

import torch

from deployments.engine.accelerator.cpu import host_bytes, process_bytes
from deployments.engine.accelerator.errors import is_out_of_memory
from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.accelerator.selection import accelerator_for
from deployments.engine.errors import release_frames
from deployments.engine.loop.generation import Generation, GenerationInbox, GenerationRequest
from deployments.engine.loop.loop import STOPPED, Loop
from deployments.engine.loop.merge_history import MeasuredForwards
from deployments.engine.loop.options import (
    DEFAULT_OPTIONS,
    EngineKeywords,
    EngineOptions,
    GenerationOptions,
    OnProgress,
)
from deployments.engine.lora.format import Lora
from deployments.engine.lora.residency import LoraResidency
from deployments.engine.memory.placement import placed_by, vacate_slots
from deployments.engine.memory.reservations import CommonMemory, Reservation
from deployments.engine.merging.compile import compile_stream, rehearse
from deployments.engine.merging.late_code import Compilation, compile_later
from deployments.engine.merging.quantized import require_products
from deployments.engine.parallel.parallel_call import on_one_device
from deployments.engine.snapshot.format import Origin, Snapshot
from deployments.engine.threads import Threads
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import Cancelled, Misconfigured, ReplicaDied

log = logging.getLogger(__name__)

_OWNER_CHECK_S = 0.5
"""Interval at which a compilation that waits for memory looks whether its model was evicted."""

_ONLY = "pipeline"  # name of the pipeline that is passed to the constructor


class Engine:
    """Engine for one device, with one thread and any number of pipelines.

    ``submit``, ``add`` and ``close`` are thread-safe. Callbacks run on the engine's thread, or on
    the one that waits for results to be copied, in the context of ``submit``.
    """

    def __init__(
        self,
        pipeline: Any = None,
        device: str | Accelerator = "cpu",
        *,
        monotonic: Callable[[], float] = time.monotonic,
        **options: Unpack[EngineKeywords],
    ) -> None:
        """``pipeline``: used by calls of ``submit`` that name none; more can be added.

        ``device``: a name as torch's, such as ``cuda``, or the device itself.
        ``options``: fields of ``EngineOptions``, such as ``max_batch`` and ``threads``.

        Raises ``Misconfigured`` for an unknown device, or when ``pipeline`` is a string.
        """
        if isinstance(pipeline, str):
            raise Misconfigured(
                f"The engine's first argument must be a pipeline. Pass device={pipeline!r} instead."
            )
        self.accelerator = accelerator_for(device) if isinstance(device, str) else device
        self.options = EngineOptions(**options)
        self._pipeline = pipeline
        self._monotonic = monotonic
        self._inbox = GenerationInbox()
        self._compiler = Threads(max_workers=1, thread_name_prefix="compiler")
        self._loras = LoraResidency(
            self.options.lora_bytes, self.accelerator, self._inbox.wake, self._compile_later
        )
        self._memory = CommonMemory(self.accelerator.memory)
        self._host_bytes = host_bytes()  # does not change, and each poll of a replica asks for it
        self._loop = Loop(
            self.accelerator, self.options, self._inbox, self._loras, self._memory, monotonic
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
        """End all generations with ``Cancelled`` and stop the thread.

        A running forward is waited for, at most ``timeout`` seconds.
        """
        self._loop.stop()
        self._compiler.shutdown(wait=False, cancel_futures=True)
        if self._thread is not None:
            self._thread.join(timeout)

    @property
    def device(self) -> str:
        """Name of the device for torch."""
        return self.accelerator.device

    @property
    def alive(self) -> bool:
        """Return whether the thread runs. Only ``close()`` ends it; any other end is a defect."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def stuck_s(self) -> float:
        """Seconds of the current turn, if that is ten times the longest turn so far; else 0."""
        return self._loop.stuck_s

    @property
    def short_of_memory(self) -> bool:
        """Return whether a generation waits for memory that others hold; new ones then wait too."""
        return self._loop.short_of_memory

    def on_memory_available(self, notify: Callable[[], None]) -> None:
        """Call ``notify`` on the engine's thread whenever ``short_of_memory`` has ended.

        ``notify`` must be quick.
        """
        self._loop.on_memory_available(notify)

    def add(self, name: str, pipeline: Any, recipe: Recipe | None = None) -> None:
        """Register ``pipeline`` as ``name`` and place it on the engine's device as ``recipe`` says.

        The name is free to choose. Raises ``Misconfigured`` if the device cannot compute in the
        recipe's precision.
        """
        require_products(recipe, self.accelerator)
        placed_by(recipe, pipeline).apply(self.accelerator)
        self.add_placed(name, pipeline)

    def add_placed(self, name: str, pipeline: Any) -> None:
        """Register a pipeline that is already where it should be; see ``add``."""
        self._loop.add(name, pipeline)

    def compile_later(self, pipeline: Any) -> bool:
        """Compile what the recipe names while generations run it as written.

        Call it before ``add_placed``. The code is for the calls that come. Returns False, and does
        nothing, if the options want it compiled before the first call: see ``precompile``.
        """
        if not self.options.compiles_first:
            compile_later(pipeline, self._compile_later)
        return not self.options.compiles_first

    def precompile(self, pipeline: Any, arguments: Callable[[], Mapping[str, Any]]) -> None:
        """Compile what the recipe names, for calls like this one, alone and merged.

        Call it before ``add_placed``. It runs on the calling thread and takes minutes, while the
        engine runs other generations, for which it does not wait: it has a stream of its own. It
        reserves the memory that weights leave for computing. If that was too little, it begins
        again when no generation runs.
        """
        self._set_threads()
        try:
            self._rehearse(pipeline, arguments, alone=False)
        except BaseException as error:
            if not is_out_of_memory(error):
                raise
            release_frames(error)
            log.warning(
                "%s could not be compiled beside running generations, because the device ran out "
                "of memory. It waits until they end.",
                type(pipeline).__name__,
            )
            self._rehearse(pipeline, arguments, alone=True)

    def _rehearse(
        self, pipeline: Any, arguments: Callable[[], Mapping[str, Any]], *, alone: bool
    ) -> None:
        """Raises an error of the device's memory unless ``alone``."""
        size = max(0, self.device_bytes() - self.accelerator.weights_budget())
        granted = threading.Event()
        with self.reserve(size, granted.set, alone=alone, shared=not alone) as reservation:
            if not reservation.granted:
                granted.wait()
            with self._memory.compiling(), compile_stream(self.accelerator), on_one_device():
                try:
                    rehearse(pipeline, arguments, self.options.traits, give_up=alone)
                finally:
                    vacate_slots([pipeline])  # what came by this stream does not stay

    def _compile_later(self, compilation: Compilation) -> None:
        """Compile on a thread of its own, in the stream of the rehearsals.

        Generations wait neither for it nor for its memory. While it has that, their batches are
        smaller.
        """
        with suppress(RuntimeError):  # the engine is closed
            self._compiler.submit(self._compile, compilation)

    def _compile(self, compilation: Compilation) -> None:
        self._set_threads()
        granted = threading.Event()
        with self.reserve(compilation.size, granted.set, spare=True) as reservation:
            while not (reservation.granted or self._loop.stopping or compilation.owner() is None):
                granted.wait(_OWNER_CHECK_S)
            if self._loop.stopping:
                return
            with self._memory.compiling(), compile_stream(self.accelerator):
                compilation.run()

    def finish_compiling(self) -> None:
        """Wait for code whose compilation the ended generations have asked for."""
        self._compiler.submit(lambda: None).result()  # it has one thread

    def _set_threads(self) -> None:
        if threads := self.options.threads:
            torch.set_num_threads(threads)  # compiled code depends on the number

    def remove(self, name: str) -> None:
        """Forget a pipeline. Generations that were submitted with it keep it until they end."""
        self._loop.remove(name)

    def release_unreferenced(self) -> None:
        """Release the memory of pipelines that nothing refers to any more but their own parts."""
        gc.collect()
        self.accelerator.memory.release()

    def check_device(self, error: BaseException) -> ReplicaDied | None:
        """End the engine if ``error``, which another thread got, says that the device has failed.

        Then all generations end with an error like the returned one, and ``alive`` becomes False.
        """
        return self._loop.check_device(error)

    def add_reclaimer(self, reclaim: Callable[[], None]) -> None:
        """Register ``reclaim``, which frees device memory that is not in use.

        It is called on the engine's thread when a generation would not fit otherwise.
        """
        self._loop.add_reclaimer(reclaim)

    @contextmanager
    def reserve(
        self,
        size: int,
        notify: Callable[[], None],
        *,
        alone: bool = False,
        shared: bool = False,
        spare: bool = False,
    ) -> Generator[Reservation]:
        """Reserve ``size`` bytes of device memory, such as for weights, for the whole block.

        The memory is reserved once the reservation is ``granted``. Then ``notify`` is called on the
        engine's thread; it must be quick. The reservation is granted when ``size`` bytes are free
        beside what running generations are expected to take; until the block ends, no other
        generation begins, or until it is granted if it is ``shared``. Generations always begin
        beside a ``spare`` one, which no request waits for. ``alone``: granted when no generation
        runs, and after idle memory was dropped.
        """
        reservations = self._loop.reservations
        reservation = reservations.request(size, notify, alone=alone, shared=shared, spare=spare)
        if self._loop.stopping or not self.alive:  # the loop may have granted the last ones already
            reservations.grant_all()
        try:
            yield reservation
        finally:
            reservations.release(reservation)

    def submit(
        self,
        *,
        pipeline: str = _ONLY,
        view: Any = None,
        loras: Sequence[Lora] = (),
        on_progress: OnProgress | None = None,
        deterministic: bool = False,
        snapshot: bytes | None = None,
        options: GenerationOptions = DEFAULT_OPTIONS,
        **arguments: Any,
    ) -> Generation:
        """Run ``pipeline(**arguments)`` concurrently with other generations.

        ``view``: a pipeline with the same weights to call instead of the added one (``view_of``).
        ``loras``: LoRAs for this generation alone; generations with different LoRAs can share a
        forward. ``deterministic``: none of its calls share a forward, so that other generations
        cannot change a bit of the output. ``snapshot``: snapshot of a generation with the same
        arguments and LoRAs, to resume from.

        Raises ``ReplicaDied`` when the engine is not running, ``LoraRefused`` for LoRAs that cannot
        be used, and ``SnapshotRefused`` for a snapshot that does not fit. The result of the
        generation may raise the last two as well.
        """
        intercepted = self._loop.pipeline_named(pipeline)
        if self._loop.stopping or not self.alive:
            raise ReplicaDied("The engine is not running.")
        called = intercepted.pipeline if view is None else view
        deadline_s = options.deadline_s
        generation = Generation(
            GenerationRequest(pipeline, arguments, view, on_progress, deterministic, options),
            intercepted,
            loras=self._loras.acquire(intercepted.pipeline, loras) if loras else None,
            snapshot=None
            if snapshot is None
            else self._decode_snapshot(snapshot, called, arguments),
            deadline=inf if deadline_s is None else self._monotonic() + deadline_s,
            wake_engine=self._inbox.wake,
        )
        self._inbox.put(generation)
        if self._loop.stopping:  # the loop may have emptied its inbox already
            self._inbox.refuse(partial(Cancelled, STOPPED))
        return generation

    def _decode_snapshot(
        self, snapshot: bytes, called: Any, arguments: Mapping[str, Any]
    ) -> Snapshot:
        """Decode a snapshot. Raises ``SnapshotRefused`` if it is of another call."""
        resumed = Snapshot.of_bytes(snapshot)
        resumed.require(Origin.here(called, arguments, self.device))
        return resumed

    def counts(self) -> Mapping[str, Any]:
        """Counters of the engine's work, which only grow (see ``loop/metrics.py``).

        For example ``forwards``, ``merged_calls``, ``single_calls``, ``batch_sizes``,
        ``not_merged``.
        """
        return self._loop.counts.copy()

    def count_parallel_calls(self, ways: Counter[str]) -> None:
        """Include ``ParallelModels.ways`` in ``counts``, as ``parallel_calls``."""
        self._loop.counts.parallel_calls = ways

    def forward_times(self) -> Sequence[MeasuredForwards]:
        """Measured seconds of denoiser forwards, by which merging is limited (``limit_rows``)."""
        return self._loop.forward_times()

    def free_bytes(self) -> int:
        """Free device memory in bytes; 0 if the device is the CPU."""
        return self._memory.free() or 0

    def device_bytes(self) -> int:
        """Total device memory in bytes; 0 if the device is the CPU."""
        return self._memory.total() or 0

    def process_memory(self) -> tuple[int, int]:
        """Bytes of this process and of its machine; zeros on a GPU, whose memory counts."""
        return (0, 0) if self.device_bytes() else (process_bytes(), self._host_bytes)
