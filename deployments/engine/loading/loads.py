"""Load plans and pipeline handles."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deployments.engine.loop.options import OnProgress
from deployments.engine.threads import Threads
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import Cancelled
from serve_app.domain.progress import OnDownload

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


class PipelineHandle:
    """Handle of a pipeline, which is not evicted until the handle is released.

    ``future`` is the pipeline, now or later. It cannot be cancelled: release the handle instead.
    """

    def __init__(self, name: str, on_progress: OnProgress | None) -> None:
        self.name = name
        self.held = False
        self.on_progress = on_progress
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()


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
    def paused(self, name: str) -> Generator[None]:
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
        name, at = min(self._beats.copy().items(), key=lambda each: each[1], default=("", now))
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
