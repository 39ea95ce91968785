"""The loop of a process that takes jobs, runs their handlers, and records how they ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from random import Random

from serve_app.domain.errors import DarkroomError
from serve_app.domain.rest import Rest
from serve_app.domain.sharing.fair_queue import work_of
from serve_app.jobs.jobs import Job, JobHandler, Jobs, Retry
from serve_app.periodic_task import PeriodicTask
from serve_app.telemetry.queue_metrics import QueueMeter

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
REST_S = 10.0
"""The same at rest. A job may wait to be tried again."""
MEASURE_EVERY_S = 15.0
FORGET_AFTER_S = 30 * 86_400.0
"""How long it is known that a job was given up."""
RENEWALS = 3
"""Renewals in the time of a lease: one may fail."""


class JobWorker:
    """Jobs of one process. Any number of processes share the work by taking it."""

    def __init__(
        self, jobs: Jobs, handlers: Sequence[JobHandler], metrics: QueueMeter | None = None
    ) -> None:
        self._jobs = jobs
        self._handlers = {handler.kind.name: handler for handler in handlers}
        self._metrics = metrics
        self._random = Random()  # noqa: S311 - jitter
        self._running: dict[asyncio.Task[None], tuple[JobHandler, Sequence[Job]]] = {}
        self._ended = asyncio.Event()
        self._rest = Rest()
        work = {"start jobs": self._look, "measure jobs": self._measure}
        self._rounds = PeriodicTask(LOOK_EVERY_S, work, rest_s=REST_S, sooner=self._ended)
        self._measured_at = float("-inf")
        if metrics is not None:
            metrics.job_kinds(self._handlers)

    def start(self, rest: Rest | None = None) -> None:
        """``rest``: None if it never looks less often."""
        self._rest = rest or self._rest
        self._rounds.start(rest)

    async def aclose(self) -> None:
        """Stop. Jobs under way are due again at once, for another process."""
        await self._rounds.aclose()
        running = dict(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for _, jobs in running.values():
            with suppress(DarkroomError):  # on failure, the lease runs out
                await self._jobs.retry(jobs, 0.0, counts=False)

    async def run_due(self) -> None:
        """Run the jobs that are due until none is."""
        while await self._start_due() or self._running:
            running = [*self._running]
            await asyncio.wait(running, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)

    async def _look(self) -> None:
        if await self._start_due():
            self._rest.busy()

    async def _start_due(self) -> bool:
        """Start what is due and has room. False: nothing was taken."""
        before = len(self._running)
        for name in await self._jobs.due_kinds([*self._handlers]):
            await self._start_some(self._handlers[name])
        return len(self._running) > before

    async def _start_some(self, handler: JobHandler) -> None:
        kind = handler.kind
        while True:
            running = [jobs for other, jobs in self._running.values() if other is handler]
            if len(running) >= kind.parallel:
                return
            tenants = [job.tenant for jobs in running for job in jobs] if kind.fair else []
            taken = await self._jobs.take(kind, kind.batch, tenants)
            if not taken:
                return
            task = asyncio.create_task(self._run(handler, taken))
            self._running[task] = handler, taken
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._ended.set()

    async def _run(self, handler: JobHandler, taken: Sequence[Job]) -> None:
        kind = handler.kind
        most = kind.max_attempts
        tried = [job for job in taken if most is not None and job.attempts > most]
        jobs = [job for job in taken if job not in tried]
        try:
            error = "Processes that ran it ended without a result."
            await self._give_up(handler, tried, error)  # each had its last attempt
            if not jobs:
                return
            retries = await self._run_while_held(handler, jobs)
            if retries is not None:
                await self._settle(handler, jobs, retries)
        except DarkroomError as failure:  # of the store: the lease runs out
            log.warning("Jobs %s are delayed: %s", kind.name, failure.message)
        except Exception:
            log.exception("Jobs %s are delayed by an error", kind.name)

    async def _run_while_held(
        self, handler: JobHandler, jobs: Sequence[Job]
    ) -> Sequence[Retry] | None:
        """Run the handler while the jobs are this process's. None: they no longer are."""
        kind = handler.kind
        with work_of(jobs[0].tenant):
            working = asyncio.create_task(handler.run(jobs))
        try:
            while True:
                await asyncio.wait({working}, timeout=kind.lease_s / RENEWALS)
                if working.done():
                    return await working
                with suppress(DarkroomError):
                    if not await self._jobs.renew(kind, jobs):
                        return None
        except DarkroomError as error:
            return [Retry(jobs, error=error.message)]
        except Exception as error:
            log.exception("The job %s %s failed", kind.name, jobs[0].key)
            return [Retry(jobs, error=repr(error))]
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _settle(
        self, handler: JobHandler, jobs: Sequence[Job], retries: Sequence[Retry]
    ) -> None:
        again = {job.lease for retry in retries for job in retry.jobs}
        done = [job for job in jobs if job.lease not in again]
        await self._jobs.finish(done)
        self._count(handler, "done", len(done))
        for retry in retries:
            last = [job for job in retry.jobs if retry.last or _is_last(handler, retry, job)]
            await self._give_up(handler, last, retry.error)
            left = [job for job in retry.jobs if job not in last]
            if not left:
                continue
            wait_s = retry.after_s
            if wait_s is None:
                attempts = min(job.attempts for job in left)
                wait_s = handler.kind.wait_s(attempts, self._random.random())
            if retry.error:
                log.warning(
                    "%s %s is tried again in %.0f s: %s",
                    handler.kind.name,
                    left[0].key,
                    wait_s,
                    retry.error,
                )
            await self._jobs.retry(left, wait_s, retry.error, counts=retry.counts)
            self._count(handler, "retried" if retry.counts else "waiting", len(left))

    async def _give_up(self, handler: JobHandler, jobs: Sequence[Job], error: str) -> None:
        for job in jobs:
            await handler.given_up(job)
            await self._jobs.give_up([job], error)
            log.warning("%s %s is given up: %s", job.kind, job.key, error)
        self._count(handler, "given_up", len(jobs))

    def _count(self, handler: JobHandler, result: str, number: int) -> None:
        if self._metrics is not None:
            self._metrics.jobs_ended(handler.kind.name, result, number)

    async def _measure(self) -> None:
        if self._metrics is None or time.monotonic() - self._measured_at < MEASURE_EVERY_S:
            return
        self._measured_at = time.monotonic()
        await self._jobs.forget(FORGET_AFTER_S)
        backlog = await self._jobs.backlog([*self._handlers])
        running = dict.fromkeys(self._handlers, 0)
        for handler, jobs in self._running.values():
            running[handler.kind.name] += len(jobs)
        self._metrics.jobs(
            {kind: replace(figures, running=running[kind]) for kind, figures in backlog.items()}
        )


def _is_last(handler: JobHandler, retry: Retry, job: Job) -> bool:
    return retry.counts and handler.kind.is_last(job.attempts)
