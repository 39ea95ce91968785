"""Shares of threads: each tenant has a queue of its own, and queues are served by turns."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

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


def may_start(held: int, running: int, threads: int) -> bool:
    """Return True if a tenant with ``held`` of the ``running`` jobs may start one more.

    A tenant never holds more threads than are free, so one alone leaves half of them, and each
    further one half of the rest. Running work is not interrupted: beside as many tenants as empty
    the pool, the next free thread goes to the tenant whose turn it is.
    """
    return held < threads - running


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
        held = self._held.get(tenant, 0)
        if tenant in self._waiting or not may_start(held, self._running, self._threads):
            return False
        self._held[tenant] = held + 1
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
        held = self._held.pop(tenant) - 1
        if held:
            self._held[tenant] = held

    def next(self) -> T | None:
        """Take a thread for the job whose turn it is. None: no job may start now."""
        for tenant, jobs in self._waiting.items():
            held = self._held.get(tenant, 0)
            if not may_start(held, self._running, self._threads):
                continue  # at most as many as threads
            job = next(iter(jobs))
            self.leave(tenant, job)
            if tenant in self._waiting:
                self._waiting.move_to_end(tenant)
            self._held[tenant] = held + 1
            self._running += 1
            return job
        return None

    def clear(self) -> list[T]:
        """Remove and return all jobs that wait."""
        left = [job for jobs in self._waiting.values() for job in jobs]
        self._waiting.clear()
        return left
