"""Which pipelines are loaded: loading more on demand, and evicting idle ones to make room.

Loading happens on a thread of its own, one pipeline at a time, so that running generations keep
their steps and memory peaks do not add up. What has to be downloaded first is, on threads beside
it: others are loaded meanwhile. What was evicted is cold: it is read from disk again.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from deployments.engine.downloads import Downloads
from deployments.engine.engine import Engine
from deployments.engine.eviction import Resident, idle_to_evict
from deployments.engine.failures import as_callers_error, is_out_of_memory, release_frames
from deployments.engine.generation import OnProgress
from deployments.engine.layout import lay_out
from deployments.engine.loan import LoadPlan, Loan
from deployments.engine.placement import Placement, placed_by
from deployments.engine.rooms import Room
from deployments.engine.silence import Silence
from deployments.engine.threads import Threads
from deployments.engine.weight_bytes import own_budget
from serve_app.domain.errors import Cancelled, OutOfMemory, WeightsUnavailable
from serve_app.domain.progress import Progress, Stage

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Loaded:
    pipeline: Any
    size: int  # bytes of weights on the device
    users: int = 0
    last_used: int = 0


class Residency:
    """Pipelines by name, each loaded once however many ask for it. Thread-safe. A load is done in
    the context of the first who asked."""

    def __init__(
        self,
        engine: Engine,
        budget_bytes: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``budget_bytes``: of weights; 0: what suits the device."""
        self._engine = engine
        self._budget = budget_bytes
        self._loaded: dict[str, _Loaded] = {}
        self._waiting: dict[str, list[Loan]] = {}
        self._progress: dict[str, Progress] = {}  # of what is waited for
        self._makes_room = False
        self._closed = False
        self._uses = 0
        self._changed = threading.Condition()
        self._silence = Silence(monotonic)
        self._loader = Threads(max_workers=1, thread_name_prefix="loader")
        self._downloads = Downloads(self._silence)
        engine.may_drop(self.drop_idle)

    def find(self, name: str) -> Any | None:
        """The loaded pipeline, or None."""
        loaded = self._loaded.get(name)
        return None if loaded is None else loaded.pipeline

    def loading(self) -> Mapping[str, Progress]:
        """What is waited for, by name, and how far it is."""
        return dict(self._progress)

    def silent(self) -> tuple[str, float]:
        """Of what is downloaded or loaded, which gave no word for longest, and for how many
        seconds. What waits (for its turn, for room, for the engine) is not asked."""
        return self._silence.longest()

    def borrow(self, name: str, plan: LoadPlan, on_progress: OnProgress | None = None) -> Loan:
        """The pipeline, now or later, until ``give_back``. The plan is the same for all who use the
        name. ``on_progress`` is told the stages of a load, also of one that has begun; it comes on
        this thread or the loader's, under a lock: it must be quick.

        A failed load is that of everybody who waits for it, and is forgotten: who asks afterwards
        tries again. ``WeightsUnavailable`` for weights that alone pass the budget.
        """
        loan = Loan(name, on_progress)
        with self._changed:
            loaded = self._loaded.get(name)
            # While others wait until there is room, new loans wait behind them: weights for which
            # requests keep coming would never be idle.
            if loaded is not None and not self._makes_room:
                self._hand_over(loan, loaded)
            elif name in self._waiting:
                self._waiting[name].append(loan)
                _tell(loan, self._progress[name])
            else:
                self._waiting[name] = [loan]
                self._tell_all(name, Progress(Stage.LOADING))
                if plan.fetch is None:
                    self._loader.submit(self._obtain, name, plan)
                else:
                    told = partial(self._on_download, name)
                    done = partial(self._fetched, name, plan)
                    self._downloads.submit(name, plan.fetch, told, done)
        return loan

    def give_back(self, loan: Loan) -> None:
        """Nothing happens the second time. A loan that still waits is given up."""
        with self._changed:
            if loan.held:
                loan.held = False
                self._uses += 1
                loaded = self._loaded[loan.name]
                loaded.users -= 1
                loaded.last_used = self._uses
            elif loan in self._waiting.get(loan.name, ()):
                self._waiting[loan.name].remove(loan)
            self._changed.notify_all()

    def drop_idle(self) -> None:
        """Evict all weights that nobody has borrowed, because memory has run out."""
        with self._changed:
            for name in [name for name, each in self._loaded.items() if not each.users]:
                self._evict(name)
            self._changed.notify_all()

    def close(self) -> None:
        """Start no more loads. One that has begun is not waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._downloads.close()
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _hand_over(self, loan: Loan, loaded: _Loaded) -> None:
        loaded.users += 1
        loan.held = True
        loan.future.set_result(loaded.pipeline)

    def _fetched(self, name: str, plan: LoadPlan, error: BaseException | None) -> None:
        if error is not None:
            self._fail(name, error)
            return
        if (told := self._progress.get(name)) and told.stage is Stage.DOWNLOADING:
            self._tell_all(name, Progress(Stage.LOADING))
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loader.submit(self._obtain, name, plan)

    def _obtain(self, name: str, plan: LoadPlan) -> None:
        """On the loader's thread: for all who wait for ``name``."""
        try:
            if name not in self._loaded:
                self._load(name, plan)
        except BaseException as error:
            self._fail(name, error)
            return
        with self._changed:
            for loan in self._no_longer_waiting(name):
                self._hand_over(loan, self._loaded[name])

    def _fail(self, name: str, error: BaseException) -> None:
        problem = as_callers_error(error)
        with self._changed:
            for loan in self._no_longer_waiting(name):
                loan.future.set_exception(problem)

    def _no_longer_waiting(self, name: str) -> Sequence[Loan]:
        self._progress.pop(name)
        return self._waiting.pop(name)

    def _tell_all(self, name: str, progress: Progress) -> None:
        with self._changed:
            if name not in self._waiting:  # a download's late word
                return
            self._progress[name] = progress
            for loan in self._waiting[name]:
                _tell(loan, progress)

    def _on_download(self, name: str, done: int, in_all: int) -> None:
        self._silence.heard(name)
        there = 0 < in_all <= done
        self._tell_all(
            name, Progress(Stage.LOADING) if there else Progress(Stage.DOWNLOADING, done, in_all)
        )

    def _warm_up(self, name: str, arguments: Callable[[], Mapping[str, Any]]) -> None:
        """One call, among those of others. That it fails is for the next to be told."""
        try:
            self._engine.submit(pipeline=name, **arguments()).result()
        except Exception:
            log.warning("%s could not be warmed up.", name, exc_info=True)

    def _load(self, name: str, plan: LoadPlan) -> None:
        log.info("Loading %s.", name)
        found = partial(self._make_room, name, plan, sure=False)
        with self._silence.at_work(name):
            pipeline = plan.load(partial(self._on_download, name), found)
            lay_out(pipeline, self._engine.device)
            placement = placed_by(plan.recipe, pipeline)
        size = placement.device_bytes
        self._make_room(name, plan, size)
        self._come_in(name, placement, size)
        if placement.compiled and plan.warm_up is not None:
            self._tell_all(name, Progress(Stage.COMPILING))
            self._engine.rehearse(pipeline, partial(plan.warm_up, pipeline))
        self._engine.add_there(name, pipeline)
        if plan.warm_up is not None:
            self._tell_all(name, Progress(Stage.WARMING_UP))
            self._warm_up(name, partial(plan.warm_up, pipeline))
        with self._changed:
            self._loaded[name] = _Loaded(pipeline, size, last_used=self._uses)
        log.info("Loaded %s: %.2f GB.", name, size / 1e9)

    def _make_room(self, name: str, plan: LoadPlan, size: int, *, sure: bool = True) -> None:
        """``sure``: they are there. Else they are about to be read into host memory."""
        if not sure and self._engine.device_bytes():
            return  # they pass through it
        budget = self._budget or own_budget(self._engine.device)
        if plan.recipe is not None and not self._budget:
            budget = max(budget, size)  # The recipe knows better, when they are there alone.
        size = size if sure else min(size, budget)
        if size > budget:
            raise WeightsUnavailable(
                f"{name} has {size / 1e9:.2f} GB of weights, and a replica of this pool may keep "
                f"{budget / 1e9:.2f} GB loaded (weights_bytes of the pool, or a larger GPU)."
            )
        with self._changed:
            try:
                while (evicted := idle_to_evict(self._residents(), size, budget)) is None:
                    self._wait(name)
            finally:
                self._makes_room = False
            for resident in evicted:
                self._evict(resident.name)
        if evicted:
            self._free()

    def _come_in(self, name: str, placement: Placement, size: int) -> None:
        """Beside the generations that run; and once more alone where that fails after all."""
        try:
            self._add(name, placement, size, alone=False)
        except BaseException as error:
            if not is_out_of_memory(error):
                raise
            release_frames(error)
            log.warning("%s did not fit beside what runs, and waits until it ends.", name)
            placement.undo()
            self._free()
            try:
                self._add(name, placement, size, alone=True)
            except BaseException as second:
                if is_out_of_memory(second):
                    raise self._too_large(name, size, second) from second
                raise

    def _add(self, name: str, placement: Placement, size: int, *, alone: bool) -> None:
        self._evict_for(size)
        with self._engine.room(size, self._look, alone=alone) as room:
            try:
                while not self._granted(room, name):
                    self._evict_for(size)
            finally:
                self._makes_room = False
            with self._silence.at_work(name):
                placement.apply(self._engine.device)

    def _granted(self, room: Room, name: str) -> bool:
        """Whether it is, now or when something has changed."""
        with self._changed:
            if not room.granted:
                self._wait(name)
            return room.granted

    def _evict_for(self, size: int) -> None:
        """Idle weights, as long as the device has less than so many bytes free."""
        with self._changed:
            free = self._engine.free_bytes()
            if size <= free or not self._engine.device_bytes():
                return
            idle = [each for each in self._residents() if not each.users]
            there = sum(each.size for each in idle) + free
            for resident in idle_to_evict(idle, size, there) or idle:
                self._evict(resident.name)
        if idle:
            self._free()  # without the lock: it takes its time

    def _look(self) -> None:
        """Room was granted."""
        with self._changed:
            self._changed.notify_all()

    def _wait(self, name: str) -> None:
        """Until something has changed; new loans wait meanwhile. ``Cancelled`` where nobody does
        for these weights. With the lock."""
        if self._closed or not self._waiting[name]:
            raise Cancelled("Nobody waits for these weights any more.")
        self._makes_room = True
        with self._silence.waits(name):
            self._changed.wait()

    def _too_large(self, name: str, size: int, error: BaseException) -> OutOfMemory:
        release_frames(error)
        free, total = self._engine.free_bytes(), self._engine.device_bytes()
        return OutOfMemory(
            f"{name} has {size / 1e9:.2f} GB of weights, and they did not fit on the device with "
            f"nothing beside them: {free / 1e9:.2f} of {total / 1e9:.2f} GB are free. Others may "
            "use it too; or take a larger GPU, or a recipe for less memory in the catalogue."
        )

    def _evict(self, name: str) -> None:
        log.info("Evicting %s: %.2f GB.", name, self._loaded[name].size / 1e9)
        self._engine.remove(name)
        del self._loaded[name]

    def _residents(self) -> Sequence[Resident]:
        return [
            Resident(name, each.size, each.users, each.last_used)
            for name, each in self._loaded.items()
        ]

    def _free(self) -> None:
        """Return what nobody refers to any more: pipelines are in circles of references."""
        gc.collect()
        if self._engine.device.startswith("cuda"):
            torch.cuda.empty_cache()


def _tell(loan: Loan, progress: Progress) -> None:
    if loan.on_progress is not None:
        loan.on_progress(progress)
