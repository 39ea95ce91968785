"""Threads that tenants share: each tenant has a queue of its own, queues are served by turns, and
one tenant's slow jobs hold no more than its share."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_tenant: ContextVar[str] = ContextVar("darkroom_work_tenant", default="")


def working_for() -> str:
    """Tenant whose share the work of the current task uses. Empty: the process itself."""
    return _tenant.get()


def work_from_now_on_for(tenant: str) -> None:
    """Count the work of the current task, from now to its end, as that of ``tenant``."""
    _tenant.set(tenant)


@contextmanager
def work_of(tenant: str) -> Generator[None]:
    """Count the work of the block as that of ``tenant``."""
    before = _tenant.set(tenant)
    try:
        yield
    finally:
        _tenant.reset(before)


def may_start(own_jobs: int, running: int, threads: int) -> bool:
    """Return True if a tenant with ``own_jobs`` of the ``running`` jobs may start one more.

    A tenant never holds more threads than are free, so one alone leaves half of them, and each
    further one half of the rest. Running work is not interrupted: beside as many tenants as empty
    the pool, the next free thread goes to the tenant whose turn it is.
    """
    return own_jobs < threads - running


class FairQueue(Generic[T]):
    """Jobs of tenants for a fixed number of threads. Decides what runs next, and runs nothing."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._running = 0
        self._held: dict[str, int] = {}  # running jobs of each tenant that has some
        # The tenant whose turn is next comes first. A dict as the queue, so that a job that is
        # cancelled leaves it at once.
        self._waiting: OrderedDict[str, dict[T, None]] = OrderedDict()

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def start(self, tenant: str) -> bool:
        """Take a thread for a new job of ``tenant``. False: it has to wait."""
        running = self._held.get(tenant, 0)
        if tenant in self._waiting or not may_start(running, self._running, self._threads):
            return False
        self._held[tenant] = running + 1
        self._running += 1
        return True

    def wait(self, tenant: str, job: T) -> None:
        """Put a job behind those of its tenant."""
        self._waiting.setdefault(tenant, {})[job] = None

    def leave(self, tenant: str, job: T) -> bool:
        """Remove a job that waits. False: it does not wait."""
        jobs = self._waiting.get(tenant)
        if jobs is None or job not in jobs:
            return False
        del jobs[job]
        if not jobs:
            del self._waiting[tenant]
        return True

    def end(self, tenant: str) -> None:
        """Give back the thread of a job that has ended."""
        self._running -= 1
        running = self._held.pop(tenant) - 1
        if running:
            self._held[tenant] = running

    def next(self) -> T | None:
        """Take a thread for the job whose turn it is. None: no job may start now."""
        for tenant, jobs in self._waiting.items():
            running = self._held.get(tenant, 0)
            if not may_start(running, self._running, self._threads):
                continue  # at most as many as threads
            job = next(iter(jobs))
            self.leave(tenant, job)
            if tenant in self._waiting:
                self._waiting.move_to_end(tenant)
            self._held[tenant] = running + 1
            self._running += 1
            return job
        return None

    def clear(self) -> list[T]:
        """Remove and return all jobs that wait."""
        left = [job for jobs in self._waiting.values() for job in jobs]
        self._waiting.clear()
        return left


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
            future = self._start_job(tenant, fn, *args, **kwargs)
            future.add_done_callback(lambda _: self._start_waiting(tenant))
            return future
        job = _Job(tenant, partial(fn, *args, **kwargs))
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._queue.wait(tenant, job)
        job.future.add_done_callback(lambda _: self._on_job_done(job))
        self._start_waiting()  # a thread may have become free since
        return job.future

    async def run(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Run ``work`` in a thread, in the context of the caller and within its tenant's share."""
        call = partial(copy_context().run, work, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self, call)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  # the signature of Executor
        """Accept no more jobs. Those that wait are cancelled; running ones end."""
        with self._lock:
            self._closed = True
            left = self._queue.clear()
        for job in left:
            job.future.cancel()
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _start_job(
        self, tenant: str, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        try:
            return self._pool.submit(fn, *args, **kwargs)
        except RuntimeError:  # closed meanwhile, or the process ends
            with self._lock:
                self._queue.end(tenant)
            raise

    def _on_job_done(self, job: _Job) -> None:
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
                running.add_done_callback(job.on_done)


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

    def on_done(self, running: Future[None]) -> None:
        """Called when ``run`` has ended, or will not be called as the threads are closed."""
        if running.cancelled():
            self.future.cancel()
