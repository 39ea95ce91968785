"""Residency of pipelines: loading on demand, and evicting idle ones to free memory.

A separate thread loads one pipeline at a time, so that running generations continue and memory
peaks do not add up. Downloads run on further threads, and do not delay the loading of other
pipelines. On a GPU, evicted weights stay in host memory within a share of it, and are copied back
from there (``memory/warm.py``); else they are read from disk again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from deployments.engine.accelerator.errors import is_out_of_memory
from deployments.engine.engine import Engine
from deployments.engine.errors import as_callers_error, release_frames
from deployments.engine.eviction import Resident, choose_victims, stays
from deployments.engine.loading.building import build, warm_up
from deployments.engine.loading.loads import (
    Downloads,
    LoadedPipeline,
    LoadHeartbeat,
    LoadPlan,
    NoSpareRoom,
    PipelineHandle,
    SpareLoadStopped,
    WaitingHandles,
    does_not_fit,
    no_spare_room,
    over_budget,
)
from deployments.engine.loop.options import OnProgress
from deployments.engine.memory.layout import lay_out
from deployments.engine.memory.placement import Placement
from deployments.engine.memory.reservations import Reservation
from deployments.engine.memory.warm import WarmTier, WarmWeights, WeightPlaces
from deployments.engine.merging.quantized import require_products
from deployments.engine.merging.quantized_files import FileCache
from deployments.engine.reading.reader import WeightReader
from deployments.engine.threads import Threads
from serve_app.domain.errors import Cancelled
from serve_app.domain.progress import Progress, Stage

log = logging.getLogger(__name__)

SPARE_WAIT_S = 2.0
"""Longest wait of a spare load for device memory that is free."""


class Residency:
    """Pipelines by name, each loaded once for all users. Thread-safe.

    A load runs in the context of the first caller.
    """

    def __init__(
        self,
        engine: Engine,
        budget_bytes: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        warm_share: float = 0.0,
        quantized: FileCache | None = None,
    ) -> None:
        """``budget_bytes``: limit for weights; 0: a default for the device.

        ``warm_share``: share of the host's memory for weights that were evicted from a GPU.
        ``quantized``: keeps weights in 8 bits; without it, they are computed at each load.
        """
        self._engine = engine
        self._budget = budget_bytes
        self._quantized = quantized
        self._loaded: dict[str, LoadedPipeline] = {}
        self._waits_for_memory = False
        self._kept: frozenset[str] = frozenset()
        self._needed: frozenset[str] = frozenset()
        self._closed = False
        self._uses = 0
        self._changed = threading.Condition()
        self._waiting = WaitingHandles(self._changed)
        self._monotonic = monotonic
        self._reader = WeightReader(engine.accelerator)
        self._warm = WarmTier(engine.accelerator, warm_share)
        self._heartbeat = LoadHeartbeat(monotonic)
        self._loader = Threads(max_workers=1, thread_name_prefix="loader")
        self._downloads = Downloads(self._heartbeat)
        engine.add_reclaimer(self.evict_idle)

    def find(self, name: str) -> Any | None:
        """Return the loaded pipeline, or None."""
        loaded = self._loaded.get(name)
        return loaded.pipeline if loaded is not None and loaded.is_ready else None

    @property
    def warm(self) -> Sequence[str]:
        """Names of evicted pipelines whose weights are in host memory."""
        return self._warm.names

    def keep(
        self,
        on_device: Collection[str],
        in_host_memory: Collection[str],
        needed: Collection[str] = (),
    ) -> None:
        """Evict these weights last, in place of those named before.

        Where evicted weights are not kept in host memory, they stay on the device instead.
        ``needed``: for queued requests; a spare load evicts none of them.
        """
        with self._changed:
            device, host = frozenset(on_device), frozenset(in_host_memory)
            self._kept = device if self._warm.keeps_any else device | host
            self._needed = frozenset(needed)
            self._warm.dropped_last = device | host | self._needed

    @property
    def restoring(self) -> Sequence[str]:
        """Names of pipelines whose weights are being copied from host memory to the device."""
        return [name for name in self._waiting.progress if name in self._warm.names]

    def loading(self) -> Mapping[str, Progress]:
        """Progress of the pipelines being downloaded or loaded, by name."""
        return self._waiting.progress

    def longest_silence(self) -> tuple[str, float]:
        """Name and seconds since the last heartbeat of the longest silent download or load.

        Those that wait (for their turn, for memory, for the engine) do not count.
        """
        return self._heartbeat.longest()

    def acquire(
        self,
        name: str,
        plan: LoadPlan,
        on_progress: OnProgress | None = None,
        *,
        spare: bool = False,
    ) -> PipelineHandle:
        """Return a handle of the pipeline, which is loaded now or later.

        ``spare``: no request waits for it. Then the future raises ``NoSpareRoom`` if the pipeline
        does not fit beside what is in use, kept or needed, unless a request comes to wait for it
        too. Its weights are in host memory then, if there is room (``warm``). It raises
        ``SpareLoadStopped`` when a request comes to wait for other weights.

        The plan must be the same for all users of the name. ``on_progress`` gets the stages of a
        load, also of one that has already begun. It is called on this thread or the loader's, under
        a lock, and must be quick.

        A failed load fails for all that wait for it, and is then forgotten: the next call tries
        again. The future raises ``WeightsUnavailable`` for weights that alone exceed the budget.
        """
        handle = PipelineHandle(name, on_progress, spare=spare)
        with self._changed:
            loaded = self._loaded.get(name)
            # While others wait for memory, new handles wait behind them. Otherwise, weights that
            # new requests keep using would never become idle.
            if loaded is not None and loaded.is_ready and not self._waits_for_memory:
                loaded.hand_out(handle)
            elif self._waiting.add(handle):
                if plan.fetch is None or loaded is not None or name in self._warm.names:
                    self._loader.submit(self._obtain, name, plan)
                else:
                    on_download = partial(self._on_download, name)
                    done = partial(self._on_fetch_end, name, plan)
                    self._downloads.submit(name, plan.fetch, on_download, done)
        return handle

    def share(self, handle: PipelineHandle) -> PipelineHandle | None:
        """Return one more handle of a pipeline. None if ``handle`` is not held.

        It waits for nobody: whoever waits for memory waits for ``handle`` anyway.
        """
        with self._changed:
            if not handle.in_use:
                return None
            shared = PipelineHandle(handle.name, on_progress=None)
            self._loaded[handle.name].hand_out(shared)
        return shared

    def release(self, handle: PipelineHandle) -> None:
        """Release a handle; one that still waits stops waiting. Does nothing the second time."""
        with self._changed:
            if handle.in_use:
                handle.in_use = False
                self._uses += 1
                loaded = self._loaded[handle.name]
                loaded.users -= 1
                loaded.last_used = self._uses
            else:
                self._waiting.remove(handle)
            self._changed.notify_all()

    def evict_idle(self) -> None:
        """Evict all weights that are not in use, because memory has run out."""
        with self._changed:
            for name in [name for name, loaded in self._loaded.items() if not loaded.users]:
                self._evict(name)  # without a copy in host memory, for which generations would wait
            self._changed.notify_all()

    def give_back_host_memory(self) -> None:
        """Drop evicted weights from host memory, soon, if others need it. It does not wait."""
        if self._warm.names:
            with contextlib.suppress(RuntimeError):  # the loader is closed
                self._loader.submit(self._warm.give_back, 0)

    def close(self) -> None:
        """Start no more loads. A running one is not waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._downloads.close()
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _on_fetch_end(self, name: str, plan: LoadPlan, error: BaseException | None) -> None:
        if error is not None:
            self._fail(name, error)
            return
        if (progress := self._waiting.progress.get(name)) and progress.stage is Stage.DOWNLOADING:
            self._waiting.report(name, Progress(Stage.LOADING))
        with contextlib.suppress(RuntimeError):  # the loader is closed
            self._loader.submit(self._obtain, name, plan)

    def _obtain(self, name: str, plan: LoadPlan) -> None:
        """Load ``name`` on the loader's thread, for all handles that wait for it."""
        with self._changed:
            if (there := self._loaded.get(name)) is not None:
                self._waiting.hand_out(name, there)
                return
        try:
            loaded = self._load(name, plan)
        except NoSpareRoom as error:
            self._give_up_spare(name, plan, error)
            if isinstance(error, SpareLoadStopped):
                release_frames(error)
                self._engine.accelerator.memory.release()  # of what was read already
            return
        except BaseException as error:
            self._fail(name, error)
            self._engine.release_unreferenced()
            return
        if plan.warm_up is None or loaded.is_warm:
            self._finish(name, loaded)
        else:
            self._waiting.report(name, Progress(Stage.WARMING_UP))
            arguments = partial(plan.warm_up, loaded.pipeline)
            warm_up(self._engine, name, arguments, partial(self._finish, name, loaded))

    def _finish(self, name: str, loaded: LoadedPipeline) -> None:
        """Hand out a pipeline that is ready now."""
        with self._changed:
            loaded.is_ready = True
            loaded.users -= 1
            self._waiting.hand_out(name, loaded)
            self._changed.notify_all()

    def _fail(self, name: str, error: BaseException) -> None:
        problem = self._engine.check_device(error) or as_callers_error(error)
        with self._changed:
            for handle in self._waiting.take(name):
                handle.future.set_exception(problem)

    def _give_up_spare(self, name: str, plan: LoadPlan, error: NoSpareRoom) -> None:
        """Fail the spare handles. If others have come to wait, load it for them."""
        with self._changed:
            for handle in self._waiting.take_spare(name):
                handle.future.set_exception(error)
            if name not in self._waiting:
                return
        with contextlib.suppress(RuntimeError):  # the loader is closed
            self._loader.submit(self._obtain, name, plan)

    def _on_download(self, name: str, done: int, in_all: int) -> None:
        self._heartbeat.beat(name)
        there = 0 < in_all <= done
        self._waiting.report(
            name, Progress(Stage.LOADING) if there else Progress(Stage.DOWNLOADING, done, in_all)
        )

    def _on_bytes(self, name: str, done: int, in_all: int) -> None:
        """Note that bytes of weights were read. ``SpareLoadStopped``."""
        self._yield_to_requests(name)
        self._heartbeat.beat(name)
        self._waiting.report_bytes(name, done, in_all)

    def _load(self, name: str, plan: LoadPlan) -> LoadedPipeline:
        self._warm.give_back(0)  # if others have taken the host's memory meanwhile
        if (warm := self._warm.take(name)) is not None:
            return self._restore(name, plan, warm)
        log.info("Loading %s from disk.", name)
        require_products(plan.recipe, self._engine.accelerator)
        began = self._monotonic()
        with self._heartbeat.busy(name):
            on_download = partial(self._on_download, name)
            make_room = partial(self._make_room, name, plan, sure=False)
            placement = build(name, plan, self._quantized, on_download, make_room)
        try:
            loaded = self._first_time(name, plan, placement)
        except NoSpareRoom as error:
            if not isinstance(error, SpareLoadStopped):
                on_bytes = partial(self._on_bytes, name)
                with self._heartbeat.busy(name):
                    self._warm.stage(name, placement, self._reader, on_bytes)
            raise
        return self._add(name, loaded, began, "cold, from disk")

    def _first_time(self, name: str, plan: LoadPlan, placement: Placement) -> LoadedPipeline:
        """Place a pipeline on the device that has not been there."""
        size, pipeline = placement.device_bytes, placement.pipeline
        self._make_room(name, plan, size)
        self._warm.give_back(0 if name in self._warm.names else placement.host_bytes)
        apply = partial(placement.apply, self._engine.accelerator, self._reader)
        self._place(name, size, partial(apply, partial(self._on_bytes, name)), placement.undo)
        lay_out(pipeline, self._engine.accelerator, plan.recipe)
        later = placement.compiles_later and self._engine.compile_later(pipeline)
        if placement.compiles and plan.warm_up is not None and not later:
            self._waiting.report(name, Progress(Stage.COMPILING))
            self._engine.precompile(pipeline, partial(plan.warm_up, pipeline))
        return LoadedPipeline(pipeline, size, placement, WeightPlaces(placement.resident))

    def _yield_to_requests(self, name: str) -> None:
        """Raise ``SpareLoadStopped`` if only others are waited for: one thread loads them all."""
        if self._waiting.yields(name):
            raise SpareLoadStopped(f"A request waits for other weights than those of {name}.")

    def _restore(self, name: str, plan: LoadPlan, warm: WarmWeights) -> LoadedPipeline:
        """Copy evicted weights from host memory to the device."""
        log.info("Loading %s from host memory.", name)
        began = self._monotonic()
        try:
            if warm.staged:
                loaded = self._first_time(name, plan, warm.placement)
            else:
                self._make_room(name, plan, warm.size)
                copy = partial(warm.apply, self._engine.accelerator)
                self._place(name, warm.size, copy, warm.undo)
                loaded = LoadedPipeline(
                    warm.pipeline, warm.size, warm.placement, warm.places, is_warm=True
                )
        except BaseException:
            self._warm.put_back(name)
            raise
        self._warm.release(name)
        return self._add(name, loaded, began, "warm, from host memory")

    def _add(self, name: str, loaded: LoadedPipeline, began: float, source: str) -> LoadedPipeline:
        self._engine.add_placed(name, loaded.pipeline)
        with self._changed:
            loaded.last_used = self._uses
            self._loaded[name] = loaded
        took_s = self._monotonic() - began
        log.info("Loaded %s (%s): %.2f GB in %.1f s.", name, source, loaded.size / 1e9, took_s)
        return loaded

    def _make_room(self, name: str, plan: LoadPlan, size: int, *, sure: bool = True) -> None:
        """Evict idle weights until ``size`` bytes fit into the budget.

        ``sure``: the weights are loaded; else they are about to be read into host memory.
        """
        self._yield_to_requests(name)
        if not sure and self._engine.device_bytes():
            return  # with a GPU, weights only pass through host memory
        budget = self._budget or self._engine.accelerator.weights_budget()
        if plan.recipe is not None and not self._budget:
            budget = max(budget, size)  # the recipe was made for these weights alone on the device
        size = size if sure else min(size, budget)
        if size > budget:
            raise over_budget(name, size, budget)
        with self._changed:
            try:
                while (victims := self._victims(name, size, budget)) is None:
                    self._wait(name)
            finally:
                self._waits_for_memory = False
            evicted = {victim.name: self._evict(victim.name) for victim in victims}
        self._let_go(evicted)

    def _victims(self, name: str, size: int, budget: int) -> Sequence[Resident[str]] | None:
        """Choose what to evict for ``name``, holding the lock. ``NoSpareRoom``."""
        residents, spare = self._residents(), self._waiting.are_spare(name)
        victims = choose_victims(residents, size, budget, spare=spare)
        if victims is None and spare:
            raise no_spare_room(
                size, budget - sum(resident.size for resident in residents if stays(resident))
            )
        return victims

    def _place(
        self, name: str, size: int, apply: Callable[[], None], undo: Callable[[], None]
    ) -> None:
        """Place weights beside running generations; if that fails, once more with none running."""
        try:
            self._reserve(name, size, apply, alone=False)
        except BaseException as error:
            if not is_out_of_memory(error):
                raise
            release_frames(error)
            log.warning("%s did not fit beside running generations; it waits until they end.", name)
            undo()
            self._engine.release_unreferenced()
            if self._waiting.are_spare(name):
                raise no_spare_room(size, self._engine.free_bytes()) from error
            try:
                self._reserve(name, size, apply, alone=True)
            except BaseException as second:
                if not is_out_of_memory(second):
                    raise
                release_frames(second)
                free, total = self._engine.free_bytes(), self._engine.device_bytes()
                raise does_not_fit(name, size, free, total) from second

    def _reserve(self, name: str, size: int, apply: Callable[[], None], *, alone: bool) -> None:
        self._evict_for(name, size)
        waits_until = self._monotonic() + SPARE_WAIT_S
        spare = self._waiting.are_spare(name)
        with self._engine.reserve(size, self._wake, alone=alone, spare=spare) as reservation:
            try:
                while not self._wait_for_grant(reservation, name, waits_until):
                    self._evict_for(name, size)
            finally:
                self._waits_for_memory = False
            with self._heartbeat.busy(name):
                apply()

    def _wait_for_grant(self, reservation: Reservation, name: str, spare_until: float) -> bool:
        """Return whether the reservation is granted, now or after the next change. A spare load
        waits no longer than ``spare_until``, by the monotonic clock: then ``NoSpareRoom``."""
        with self._changed:
            if reservation.granted:
                return True
            if not self._waiting.are_spare(name):
                reservation.is_urgent()
                self._wait(name)
            elif self._monotonic() < spare_until:
                self._changed.wait(SPARE_WAIT_S)
            else:
                raise no_spare_room(reservation.size, self._engine.free_bytes())
            return reservation.granted

    def _evict_for(self, name: str, size: int) -> None:
        """Evict idle weights while the device has less than ``size`` bytes free. ``NoSpareRoom``,
        and nothing is evicted, if that is not enough for a spare load."""
        with self._changed:
            free = self._engine.free_bytes()
            if size <= free or not self._engine.device_bytes():
                return
            spare = self._waiting.are_spare(name)
            idle = [
                resident
                for resident in self._residents()
                if not resident.users and not (spare and stays(resident))
            ]
            there = sum(resident.size for resident in idle) + free
            if spare and there < size:
                raise no_spare_room(size, there)
            victims = choose_victims(idle, size, there) or idle
            evicted = {victim.name: self._evict(victim.name) for victim in victims}
        self._let_go(evicted)  # without the lock, because it is slow

    def _wake(self) -> None:
        """Wake the loader: a reservation was granted."""
        with self._changed:
            self._changed.notify_all()

    def _wait(self, name: str) -> None:
        """Wait for a change, holding the lock; new handles wait from now on.

        Raises ``Cancelled`` when no handle waits for these weights any more.
        """
        if self._closed or not self._waiting.any_for(name):
            raise Cancelled("No request waits for these weights any more.")
        self._waits_for_memory = True
        with self._heartbeat.pause(name):
            self._changed.wait()

    def _evict(self, name: str) -> LoadedPipeline:
        log.info("Evicting %s: %.2f GB.", name, self._loaded[name].size / 1e9)
        self._engine.remove(name)
        return self._loaded.pop(name)

    def _let_go(self, evicted: dict[str, LoadedPipeline]) -> None:
        """Free the device memory of evicted weights; they stay in host memory if there is room."""
        if not evicted:
            return
        while evicted:
            name, loaded = evicted.popitem()
            if self._warm.keep(name, loaded.pipeline, loaded.placement, loaded.places, loaded.size):
                log.info("%s stays in host memory.", name)
            del loaded
        self._engine.release_unreferenced()

    def _residents(self) -> Sequence[Resident[str]]:
        return [
            loaded.resident(name, kept=name in self._kept, needed=name in self._needed)
            for name, loaded in self._loaded.items()
        ]
