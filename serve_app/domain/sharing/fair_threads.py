"""Threads that tenants share: one tenant's slow jobs hold no more than its share of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from serve_app.domain.sharing.fair_queue import FairQueue, working_for

P = ParamSpec("P")
T = TypeVar("T")


class FairThreads(Executor):
    """Executor with a queue per tenant; ``work_of`` names the tenant of a call.

    It belongs to no event loop: any thread may submit. A job that is cancelled while it waits
    leaves its queue at once.
    """

    def __init__(self, threads: int, name: str) -> None:
        # It never queues: it has a thread for each job that the fair queue lets through.
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._queue: FairQueue[_Job] = FairQueue(threads)
        self._closed = False

    @property
    def waiting(self) -> int:
        """Number of jobs that have no thread yet."""
        with self._lock:
            return self._queue.waiting

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        tenant = working_for()
        with self._lock:
            at_once = not self._closed and self._queue.start(tenant)
        if at_once:
            future = self._started(tenant, fn, *args, **kwargs)
            future.add_done_callback(lambda _: self._start_waiting(tenant))
            return future
        job = _Job(tenant, partial(fn, *args, **kwargs))
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._queue.wait(tenant, job)
        job.future.add_done_callback(lambda _: self._left(job))
        self._start_waiting()  # a thread may have become free since
        return job.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  # the signature of Executor
        """Accept no more jobs. Those that wait are cancelled; running ones end."""
        with self._lock:
            self._closed = True
            left = self._queue.clear()
        for job in left:
            job.future.cancel()
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _started(
        self, tenant: str, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        try:
            return self._pool.submit(fn, *args, **kwargs)
        except RuntimeError:  # closed meanwhile, or the process ends
            with self._lock:
                self._queue.end(tenant)
            raise

    def _left(self, job: _Job) -> None:
        """Called when the future of a job that had to wait is done."""
        with self._lock:
            waited = self._queue.leave(job.tenant, job)
        if not waited and job.taken:
            self._start_waiting(job.tenant)

    def _start_waiting(self, ended: str | None = None) -> None:
        """Start all jobs that may start now. ``ended``: tenant of a job that has ended."""
        while True:
            with self._lock:
                if ended is not None:
                    self._queue.end(ended)
                    ended = None
                job = None if self._closed else self._queue.next()
                if job is None:
                    return
                job.taken = True
            try:
                running = self._pool.submit(job.run)
            except RuntimeError:  # closed meanwhile, or the process ends
                job.future.cancel()
            else:
                running.add_done_callback(job.dropped)


class _Job:
    """Work that waits for its turn."""

    __slots__ = ("_work", "future", "taken", "tenant")

    def __init__(self, tenant: str, work: Callable[[], Any]) -> None:
        self.tenant = tenant
        self.future: Future[Any] = Future()
        self.taken = False  # True once it has a share; guarded by the lock of the threads
        self._work = work

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self._work())
        except BaseException as error:  # whoever awaits it gets it
            self.future.set_exception(error)

    def dropped(self, running: Future[None]) -> None:
        """Called when ``run`` has ended, or will not be called as the threads are closed."""
        if running.cancelled():
            self.future.cancel()
