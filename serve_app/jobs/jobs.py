"""Durable work: what a job is, how jobs of a kind are retried, and the port of their store."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from serve_app.domain.audit.acts import Actor
from serve_app.telemetry.queue_metrics import JobFigures

JITTER = 0.2
"""Maximum fraction that is added to a delay, so that jobs that failed together spread out."""


@dataclass(frozen=True, slots=True)
class JobKind:
    """How the jobs of a kind are taken, retried and given up."""

    name: str
    first_wait_s: float  # delay after the first failure; twice as long after each further one
    max_wait_s: float
    lease_s: float = 60.0  # time after which another process takes the job of a silent one
    max_attempts: int | None = None  # then the job is given up; None: never
    batch: int = 1  # most jobs of one call of the handler
    parallel: int = 1  # most calls of the handler at once in a process
    # Jobs of the tenant with the fewest under way are first, and a process runs one of each.
    fair: bool = False

    def wait_s(self, attempts: int, chance: float) -> float:
        """Seconds until the next attempt, after ``attempts``. ``chance``: random, from 0 to 1."""
        doubled = self.first_wait_s * 2.0 ** min(attempts - 1, 60)
        return min(self.max_wait_s, doubled) * (1 + JITTER * chance)

    def is_last(self, attempts: int) -> bool:
        return self.max_attempts is not None and attempts >= self.max_attempts


@dataclass(frozen=True, slots=True)
class Job:
    """A job that this process has taken."""

    kind: str
    key: str
    lease: str  # of this attempt: the fence
    attempts: int  # with this one
    tenant: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict[str, Any])
    age_s: float = 0.0  # since it was put


@dataclass(frozen=True, slots=True)
class Retry:
    """Jobs that are not done."""

    jobs: Sequence[Job]
    after_s: float | None = None  # None: the kind's back-off
    error: str = ""
    counts: bool = True  # as an attempt; False: the job only waits
    last: bool = False  # a further attempt is of no use: the jobs are given up


@dataclass(frozen=True, slots=True)
class FailingJob:
    """Job whose last attempt failed."""

    job: str  # kind and key
    tenant: str  # empty: none
    attempts: int
    error: str
    created_at: datetime
    next_attempt_at: datetime | None  # None: it runs now, or was given up
    given_up_at: datetime | None


MAX_COUNTED = 10_000
"""Jobs of a kind that are counted."""


class Jobs(Protocol):
    """Store of jobs. They are put by the statement that makes them necessary. A job is removed when
    it is done. Methods raise ``DatabaseUnavailable``; those that name jobs change only jobs whose
    lease is still this one."""

    async def due_kinds(self, kinds: Collection[str]) -> Collection[str]:
        """Kinds that have a job to take now."""
        ...

    async def take(
        self, kind: JobKind, most: int, except_of: Collection[str] = ()
    ) -> Sequence[Job]:
        """Take jobs that are due, or whose process was silent for longer than their lease.
        ``except_of``: tenants of which none is taken; of a fair kind only."""
        ...

    async def renew(self, kind: JobKind, jobs: Sequence[Job]) -> int:
        """Keep jobs for another lease. Returns how many still are this process's."""
        ...

    async def finish(self, jobs: Sequence[Job]) -> None:
        """Remove jobs that are done."""
        ...

    async def retry(
        self, jobs: Sequence[Job], after_s: float, error: str = "", *, counts: bool = True
    ) -> None:
        """Give jobs back, to be taken again in ``after_s`` seconds."""
        ...

    async def give_up(self, jobs: Sequence[Job], error: str) -> None:
        """Record jobs as given up. They are not taken again unless they are put again."""
        ...

    async def backlog(self, kinds: Collection[str]) -> Mapping[str, JobFigures]: ...

    async def failing(self, most: int) -> Sequence[FailingJob]:
        """Jobs whose last attempt failed: those that were given up, then the others, oldest first
        of each."""
        ...

    async def restart(self, job: str, actor: Actor) -> FailingJob | None:
        """Make a failing job due now, and count its attempts anew. One that runs goes on. ``job``:
        kind and key. None: there is no such job that fails."""
        ...

    async def forget(self, age_s: float) -> None:
        """Remove jobs that were given up so many seconds ago."""
        ...


class JobHandler(Protocol):
    """What is done for the jobs of a kind. It may be done twice: again after a crash, or while
    another process that stood still goes on."""

    kind: JobKind

    async def run(self, jobs: Sequence[Job]) -> Sequence[Retry]:
        """Do jobs, at most ``kind.batch``. Returns those that are not done. An error: none is. It
        is cancelled when no job is this process's any more."""
        ...

    async def given_up(self, job: Job) -> None:
        """Record what it means that a job will not be done, before it is given up."""
        del job  # for most kinds nothing
