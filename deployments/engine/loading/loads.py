"""Load plans and pipeline handles."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deployments.engine.eviction import Resident
from deployments.engine.loop.options import OnProgress
from deployments.engine.memory.placement import Placement
from deployments.engine.memory.warm import WeightPlaces
from deployments.engine.threads import Threads
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import Cancelled, OutOfMemory, WeightsUnavailable
from serve_app.domain.progress import OnDownload, Progress, Stage

OnFound = Callable[[int], None]
"""Callback that gets the bytes to load, before they are read; returns when there is space."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Steps that fetch weights to this machine, on a download thread."""

    is_here: Callable[[], bool]
    bring: Callable[[OnDownload], None]


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Steps that load weights onto the device. The functions run on the loader's thread."""

    load: Callable[[OnDownload, OnFound], Any]  # returns the pipeline, on the CPU
    recipe: Recipe | None = None
    # Arguments of ``Engine.submit`` for a short call of the pipeline, or of a ``view``.
    warm_up: Callable[[Any], Mapping[str, Any]] | None = None
    fetch: Fetch | None = None  # None: the weights are on this machine


@dataclass(slots=True)
class LoadedPipeline:
    """Pipeline on the device."""

    pipeline: Any
    size: int  # bytes of weights on the device
    placement: Placement
    places: WeightPlaces
    is_warm: bool = False  # it came from host memory, and ran before
    users: int = 1  # the load itself, until it is ready
    last_used: int = 0
    is_ready: bool = False

    def hand_out(self, handle: PipelineHandle) -> None:
        """Give it to the owner of a handle. The caller holds the lock of all handles."""
        self.users += 1
        handle.in_use = True
        handle.future.set_result(self.pipeline)

    def resident(self, name: str, *, kept: bool, needed: bool) -> Resident[str]:
        return Resident(name, self.size, self.users, self.last_used, kept, needed)


class NoSpareRoom(Exception):
    """There is no room for a spare load now. Requests would evict others, or wait for them.

    The weights may have been read to host memory instead.
    """


class SpareLoadStopped(NoSpareRoom):
    """A request waits for other weights, so the spare load has ended."""


def no_spare_room(size: int, left: int) -> NoSpareRoom:
    return NoSpareRoom(
        f"It has {size / 1e9:.2f} GB of weights, and what is in use or kept leaves "
        f"{max(0, left) / 1e9:.2f} GB on the device."
    )


def over_budget(name: str, size: int, budget: int) -> WeightsUnavailable:
    return WeightsUnavailable(
        f"{name} has {size / 1e9:.2f} GB of weights, but a replica of this pool may keep "
        f"{budget / 1e9:.2f} GB loaded. Raise weights_bytes of the pool, or use a larger GPU."
    )


def does_not_fit(name: str, size: int, free: int, total: int) -> OutOfMemory:
    return OutOfMemory(
        f"{name} has {size / 1e9:.2f} GB of weights, and they did not fit on the device with "
        f"nothing beside them: {free / 1e9:.2f} of {total / 1e9:.2f} GB are free. Stop other "
        "programs on the device, or use a larger GPU or a catalogue recipe for less memory."
    )


class PipelineHandle:
    """Handle of a pipeline, which is not evicted until the handle is released.

    ``future`` is the pipeline, now or later. It cannot be cancelled: release the handle instead.
    ``spare``: no request waits for it.
    """

    def __init__(self, name: str, on_progress: OnProgress | None, *, spare: bool = False) -> None:
        self.name = name
        self.spare = spare
        self.in_use = False
        self.on_progress = on_progress
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()


class WaitingHandles:
    """Handles that wait for a load, and its progress, by name. ``lock`` protects them; it is
    reentrant, and callers may hold it."""

    def __init__(self, lock: threading.Condition) -> None:
        self._lock = lock
        self._handles: dict[str, list[PipelineHandle]] = {}
        self._progress: dict[str, Progress] = {}

    def __contains__(self, name: str) -> bool:
        """True if the pipeline is being loaded, even if no handle waits for it any more."""
        return name in self._handles

    @property
    def progress(self) -> Mapping[str, Progress]:
        """Progress of the loads, by name."""
        return self._progress.copy()

    def add(self, handle: PipelineHandle) -> bool:
        """Let a handle wait. True if it is the first, so that the load has to be started."""
        first = handle.name not in self._handles
        self._handles.setdefault(handle.name, []).append(handle)
        progress = self._progress.setdefault(handle.name, Progress(Stage.LOADING))
        _report_to(handle, progress)
        return first

    def remove(self, handle: PipelineHandle) -> None:
        """Let a handle wait no more. Does nothing if it does not wait."""
        if handle in self._handles.get(handle.name, ()):
            self._handles[handle.name].remove(handle)

    def any_for(self, name: str) -> bool:
        return bool(self._handles.get(name))

    def are_spare(self, name: str) -> bool:
        """True if no request waits for the pipeline."""
        return all(handle.spare for handle in self._handles.get(name, ()))

    def yields(self, name: str) -> bool:
        """True if no request waits for the pipeline, and one waits for the load of another."""
        return self.are_spare(name) and any(
            progress.stage is Stage.LOADING and not self.are_spare(other)
            for other, progress in self.progress.items()
        )

    def take(self, name: str) -> Sequence[PipelineHandle]:
        """End the load, and return the handles that waited for it."""
        self._progress.pop(name)
        return self._handles.pop(name)

    def hand_out(self, name: str, loaded: LoadedPipeline) -> None:
        """End the load: all that waited get the pipeline."""
        for handle in self.take(name):
            loaded.hand_out(handle)

    def take_spare(self, name: str) -> Sequence[PipelineHandle]:
        """Return the spare handles. If others wait, the load goes on for them."""
        spare = [waiter for waiter in self._handles[name] if waiter.spare]
        for handle in spare:
            self._handles[name].remove(handle)
        if not self._handles[name]:
            self.take(name)
        return spare

    def report(self, name: str, progress: Progress) -> None:
        """Tell the waiting handles. Late reports of an ended load are dropped."""
        with self._lock:
            if name not in self._handles:
                return
            self._progress[name] = progress
            for handle in self._handles[name]:
                _report_to(handle, progress)

    def report_bytes(self, name: str, done: int, in_all: int) -> None:
        """Tell the waiting handles that bytes were read, after each hundredth of all."""
        shown = self._progress[name]
        before = shown.step if shown.stage is Stage.LOADING else 0
        if done == in_all or done - before >= in_all / 100:
            self.report(name, Progress(Stage.LOADING, done, in_all))


def _report_to(handle: PipelineHandle, progress: Progress) -> None:
    if handle.on_progress is not None:
        handle.on_progress(progress)


# Heartbeats of tasks: the time since the last sign of progress.


class LoadHeartbeat:
    """Heartbeats by name. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._beats: dict[str, float] = {}

    @contextmanager
    def busy(self, name: str) -> Generator[None]:
        self._beats[name] = self._monotonic()
        try:
            yield
        finally:
            self._beats.pop(name, None)

    @contextmanager
    def pause(self, name: str) -> Generator[None]:
        """Suspend the heartbeat while the task waits for others."""
        works = self._beats.pop(name, None) is not None
        try:
            yield
        finally:
            if works:
                self._beats[name] = self._monotonic()

    def beat(self, name: str) -> None:
        if name in self._beats:
            self._beats[name] = self._monotonic()

    def longest(self) -> tuple[str, float]:
        """Name and seconds of the longest silent task; ("", 0) without tasks."""
        now = self._monotonic()
        name, at = min(self._beats.copy().items(), key=lambda beat: beat[1], default=("", now))
        return name, now - at


# Downloads of weights to this machine, concurrent with loading and computing.

AT_ONCE = 4
"""Concurrent downloads, started in the order of the requests."""
THREADS = 64  # so that weights that are already here do not wait behind downloads


class Downloads:
    """Download queue. Thread-safe."""

    def __init__(self, heartbeat: LoadHeartbeat) -> None:
        self._heartbeat = heartbeat
        self._turn = threading.Semaphore(AT_ONCE)
        self._closed = False
        self._threads = Threads(max_workers=THREADS, thread_name_prefix="download")

    def submit(
        self,
        name: str,
        fetch: Fetch,
        on_download: OnDownload,
        done: Callable[[BaseException | None], None],
    ) -> None:
        """Make the files of ``fetch`` available on this machine.

        ``on_download`` gets (0, 0) when other downloads go first, and is not called when everything
        is here. ``done`` is called at the end, with the error or None.
        """
        self._threads.submit(self._run, name, fetch, on_download, done)

    def close(self) -> None:
        """Start no more downloads. Running ones are not waited for."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(
        self,
        name: str,
        fetch: Fetch,
        on_download: OnDownload,
        done: Callable[[BaseException | None], None],
    ) -> None:
        try:
            if not fetch.is_here():
                self._download(name, fetch, on_download)
        except BaseException as error:
            done(error)
        else:
            done(None)

    def _download(self, name: str, fetch: Fetch, on_download: OnDownload) -> None:
        if not self._turn.acquire(blocking=False):
            on_download(0, 0)
            self._turn.acquire()
        try:
            if self._closed:
                raise Cancelled("The replica is closing.")
            with self._heartbeat.busy(name):
                fetch.bring(on_download)
        finally:
            self._turn.release()
