"""Parallel worker: computes its part of the denoiser forwards that rank 0 sends."""

from __future__ import annotations

import gc
import logging
from typing import Any

import torch

from deployments.engine.interception.isolation import ThreadState
from deployments.engine.interception.model_traits import KNOWN, ModelTraits
from deployments.engine.memory.placement import placed_by
from deployments.engine.parallel.group import ParallelGroup
from deployments.engine.parallel.parallel_call import (
    AGREE_S,
    Key,
    ParallelCall,
    agreed,
    failed,
    receive,
    spreadable,
)
from serve_app.domain.endpoint import Recipe

log = logging.getLogger(__name__)


class ParallelWorker:
    """Worker for one device. ``add`` may run on any thread, ``follow`` on one only."""

    def __init__(
        self, group: ParallelGroup, threads: int = 0, declarations: ModelTraits = KNOWN
    ) -> None:
        """``threads``: torch's threads on a CPU; 0: torch's own choice."""
        self._group = group
        self._threads = threads
        self._declarations = declarations
        self._denoisers: dict[Key, Any] = {}
        self._here: set[Key] = set()  # denoisers on the device

    def add(self, number: int, pipeline: Any, recipe: Recipe | None = None) -> None:
        """Hold the pipeline's denoisers, in host memory until their first call.

        Raises ``WeightsUnavailable`` when they cannot be divided among devices.
        """
        denoisers = spreadable(pipeline, recipe, self._declarations)
        for module in denoisers.values():
            self._group.divide(module)
        placed_by(recipe, pipeline)
        self._denoisers |= {(number, name): module for name, module in denoisers.items()}

    def follow(self) -> None:
        """Compute calls until rank 0 ends or dies. Raises an error that only this device had."""
        if self._threads:
            torch.set_num_threads(self._threads)  # OpenMP has this setting per thread
        while True:
            try:
                call = receive(self._group)
            except RuntimeError as error:
                log.info("The connection to rank 0 of the replica ended: %s", error)
                return
            if call is None:
                return
            self._forget(call)
            self._compute(call)

    @property
    def denoisers(self) -> int:
        """Number of denoisers that this worker holds."""
        return len(self._denoisers)

    def _compute(self, call: ParallelCall) -> None:
        usual = ThreadState.of_this_thread()
        call.thread.apply()
        try:
            self._denoiser(call.key)(*call.arguments, **call.keywords)
        except Exception as error:
            # Other ranks may be in the middle of the same forward, waiting for this device.
            self._group.publish(failed(call.number, self._group.rank), str(error))
            if not self._group.wait_for(agreed(call.number), AGREE_S):
                raise
        finally:
            usual.apply()

    def _denoiser(self, key: Key) -> Any:
        module = self._denoisers[key]
        if key not in self._here:
            module.to(self._group.device)
            self._here.add(key)
        return module

    def _forget(self, call: ParallelCall) -> None:
        for key in call.forgotten:
            self._denoisers.pop(key, None)
            self._here.discard(key)
        if call.forgotten:
            gc.collect()
            self._group.accelerator.memory.release()
