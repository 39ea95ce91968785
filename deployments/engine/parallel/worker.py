"""Parallel worker: computes its part of the denoiser forwards that rank 0 sends."""

from __future__ import annotations

import gc
import logging
import pickle
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from deployments.engine.accelerator.errors import is_out_of_memory
from deployments.engine.errors import release_frames
from deployments.engine.interception.isolation import ThreadState
from deployments.engine.interception.model_traits import KNOWN, ModelTraits
from deployments.engine.lora.attached import LoraLayers
from deployments.engine.lora.layers import layer_of_halves
from deployments.engine.lora.rows import LoraRows
from deployments.engine.memory.placement import placed_by
from deployments.engine.merging.compile import DIVIDES_ROWS, compile_stream, rehearse
from deployments.engine.merging.late_code import Compilation
from deployments.engine.parallel.group import ParallelGroup
from deployments.engine.parallel.messages import (
    Key,
    LoraChange,
    Message,
    Packed,
    ParallelCall,
    Part,
    PartResult,
    pack,
    receive,
    send,
)
from deployments.engine.parallel.parallel_call import (
    AGREE_S,
    agreement_key,
    failure_key,
    spreadable,
    token_division,
)
from deployments.engine.parallel.token_division import TokenDivision
from deployments.engine.threads import Threads
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import PipelineFailed

log = logging.getLogger(__name__)

Rehearsal = Callable[[], Mapping[str, Any]]
"""Arguments of a pipeline's call by which its blocks are compiled."""


@dataclass(slots=True)
class _Denoiser:
    """Denoiser of this device."""

    module: Any
    tokens: TokenDivision | None
    loras: LoraLayers
    is_here: bool = False  # on the device; else in host memory


class ParallelWorker:
    """Worker for one device. ``add`` may run on any thread, ``follow`` on one only."""

    def __init__(
        self, group: ParallelGroup, threads: int = 0, declarations: ModelTraits = KNOWN
    ) -> None:
        """``threads``: torch's threads on a CPU; 0: torch's own choice."""
        self._group = group
        self._threads = threads
        self._declarations = declarations
        self._denoisers: dict[Key, _Denoiser] = {}
        self._rows = LoraRows(group.accelerator)
        self._compiler = Threads(max_workers=1, thread_name_prefix="compiler")

    def add(
        self,
        number: int,
        pipeline: Any,
        recipe: Recipe | None = None,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        """Hold the pipeline's denoisers, in host memory until their first call.

        ``rehearsal``: for a recipe that compiles; then all components are on the device while the
        blocks are compiled, as on rank 0. Raises ``WeightsUnavailable`` when they cannot be divided
        among devices.
        """
        modules = spreadable(pipeline, recipe)
        denoisers = {
            (number, name): _Denoiser(
                module,
                token_division(pipeline, module, self._group, self._declarations),
                LoraLayers(self._rows, self._compile_later),
            )
            for name, module in modules.items()
        }
        for module in modules.values():
            vars(module)[DIVIDES_ROWS] = True
        placement = placed_by(recipe, pipeline)
        if placement.compiled and rehearsal is not None:
            self._set_threads()
            placement.apply(self._group.accelerator)
            with compile_stream(self._group.accelerator):
                rehearse(pipeline, rehearsal, self._declarations)
            for denoiser in denoisers.values():
                denoiser.is_here = True
        self._denoisers |= denoisers

    def follow(self) -> None:
        """Compute calls until rank 0 ends or dies. Raises an error that only this device had."""
        self._set_threads()
        try:
            self._follow()
        finally:
            self._compiler.shutdown(wait=False, cancel_futures=True)

    def _follow(self) -> None:
        while True:
            try:
                message: Message = receive(self._group)
            except RuntimeError as error:
                log.info("The connection to rank 0 of the replica ended: %s", error)
                return
            if message is None:
                return
            if isinstance(message, LoraChange):
                self._change_loras(message)
                continue
            self._forget(message)
            self._rows.allow(message.stacks_bytes)
            usual = ThreadState.of_this_thread()
            message.thread.apply()
            try:
                self._compute(message)
            finally:
                usual.apply()

    @property
    def denoisers(self) -> int:
        """Number of denoisers that this worker holds."""
        return len(self._denoisers)

    def _compute(self, call: ParallelCall) -> None:
        if call.whole is not None:
            self._compute_together(call, call.whole)
        elif self._group.rank < call.ranks:
            self._compute_part(call)

    # By tokens: all ranks at the same time.

    def _compute_together(self, call: ParallelCall, whole: Part) -> None:
        try:
            denoiser = self._denoiser(call.key)
            tokens = nullcontext() if denoiser.tokens is None else denoiser.tokens.active()
            with self._rows.use(whole.mixes), tokens:
                denoiser.module(*whole.arguments, **whole.keywords)
        except Exception as error:
            # Other ranks may be in the middle of the same forward, waiting for this device.
            self._group.publish(failure_key(call.number, self._group.rank), str(error))
            if not self._group.wait_for(agreement_key(call.number), AGREE_S):
                raise

    # By rows: each rank its own.

    def _compute_part(self, call: ParallelCall) -> None:
        part: Part = receive(self._group, (0, self._group.rank))
        outcome = self._outcome(call, part)
        if outcome.error is not None and is_out_of_memory(outcome.error):
            # As on rank 0: what is kept from step to step goes, and the part is tried once more.
            self._rows.release_memory()
            self._group.accelerator.memory.release()
            outcome = self._outcome(call, part)
        send(self._group, _pack_outcome(outcome), (self._group.rank, 0))

    def _outcome(self, call: ParallelCall, part: Part) -> PartResult:
        """Compute a part. Raises an error that says that the device has failed."""
        try:
            denoiser = self._denoiser(call.key)
            with self._rows.use(part.mixes):
                return PartResult(denoiser.module(*part.arguments, **part.keywords))
        except Exception as error:
            release_frames(error)
            if not is_out_of_memory(error) and self._group.accelerator.has_failed():
                raise
            return PartResult(error=error)

    def _denoiser(self, key: Key) -> _Denoiser:
        denoiser = self._denoisers[key]
        if not denoiser.is_here:
            denoiser.module.to(self._group.device)
            denoiser.is_here = True
        return denoiser

    def _change_loras(self, change: LoraChange) -> None:
        """Do what rank 0 has done to the LoRAs of a denoiser."""
        denoiser = self._denoisers[change.key]
        module, arguments = denoiser.module, list(change.arguments)
        if change.operation == "attach":
            halves, name = arguments
            arguments[0] = {
                path: layer_of_halves(module, path, name, pair, self._rows)
                for path, pair in halves.items()
            }
        elif change.operation == "detach":
            self._rows.forget(arguments[0])
        getattr(denoiser.loras, change.operation)(module, *arguments)

    def _compile_later(self, compilation: Compilation) -> None:
        """Compile blocks with LoRAs on a thread of its own, as rank 0 does."""
        self._compiler.submit(self._compile, compilation)

    def _compile(self, compilation: Compilation) -> None:
        self._set_threads()
        with compile_stream(self._group.accelerator):
            compilation.run()

    def _set_threads(self) -> None:
        if self._threads:  # compiled code depends on the number; OpenMP has it per thread
            torch.set_num_threads(self._threads)

    def _forget(self, call: ParallelCall) -> None:
        for key in call.forgotten:
            self._denoisers.pop(key, None)
        if call.forgotten:
            gc.collect()
            self._group.accelerator.memory.release()


def _pack_outcome(outcome: PartResult) -> Packed:
    """Pack an outcome; one that cannot be sent becomes an error that says so."""
    try:
        return pack(outcome)
    except (pickle.PicklingError, TypeError, AttributeError):
        what: Any = outcome.output if outcome.error is None else outcome.error
        return pack(PartResult(error=PipelineFailed(f"{type(what).__name__}: {what}")))
