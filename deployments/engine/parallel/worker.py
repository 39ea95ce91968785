"""Computes its part of denoisers' forwards, as rank 0 sends them."""

from __future__ import annotations

import gc
import logging
from typing import Any

import torch

from deployments.engine.declarations import Declarations
from deployments.engine.device_group import DeviceGroup
from deployments.engine.families.known import KNOWN
from deployments.engine.placement import placed_by
from deployments.engine.spread import AGREE_S, agreed, failed, spreadable
from deployments.engine.spread_call import Key, SpreadCall, receive
from deployments.engine.thread_state import ThreadState
from serve_app.domain.endpoint import Recipe

log = logging.getLogger(__name__)


class Follower:
    """Of one device. ``add`` is for any thread, ``follow`` for one."""

    def __init__(
        self, group: DeviceGroup, threads: int = 0, declarations: Declarations = KNOWN
    ) -> None:
        """``threads``: torch's, on a CPU; 0: torch's own choice."""
        self._group = group
        self._threads = threads
        self._declarations = declarations
        self._denoisers: dict[Key, Any] = {}
        self._here: set[Key] = set()  # on the device

    def add(self, number: int, pipeline: Any, recipe: Recipe | None = None) -> None:
        """Keep its denoisers, in host memory until the first call. ``WeightsUnavailable`` where
        they cannot be spread."""
        denoisers = spreadable(pipeline, recipe, self._declarations)
        for module in denoisers.values():
            self._group.divide(module)
        placed_by(recipe, pipeline)
        self._denoisers |= {(number, name): module for name, module in denoisers.items()}

    def follow(self) -> None:
        """Until rank 0 ends, or has died. Raises what only this device has failed at."""
        if self._threads:
            torch.set_num_threads(self._threads)  # per thread as well, under OpenMP
        while True:
            try:
                call = receive(self._group)
            except RuntimeError as error:
                log.info("Rank 0 of the replica is gone: %s", error)
                return
            if call is None:
                return
            self._forget(call)
            self._compute(call)

    @property
    def denoisers(self) -> int:
        """How many it holds."""
        return len(self._denoisers)

    def _compute(self, call: SpreadCall) -> None:
        usual = ThreadState.of_this_thread()
        call.thread.apply()
        try:
            self._denoiser(call.key)(*call.arguments, **call.keywords)
        except Exception as error:
            # The others may stand in the middle of the same forward, and wait for this device.
            self._group.tell(failed(call.number, self._group.rank), str(error))
            if not self._group.told(agreed(call.number), AGREE_S):
                raise
        finally:
            usual.apply()

    def _denoiser(self, key: Key) -> Any:
        module = self._denoisers[key]
        if key not in self._here:
            module.to(self._group.device)
            self._here.add(key)
        return module

    def _forget(self, call: SpreadCall) -> None:
        for key in call.forgotten:
            self._denoisers.pop(key, None)
            self._here.discard(key)
        if call.forgotten:
            gc.collect()
            if self._group.device.startswith("cuda"):
                torch.cuda.empty_cache()
