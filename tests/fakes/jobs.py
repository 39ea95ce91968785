"""Background jobs in memory."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.ports import Clock
from serve_app.jobs.jobs import FailingJob, Job, JobKind
from serve_app.telemetry.queue_metrics import JobFigures


@dataclass
class Row:
    due_at: datetime
    created_at: datetime
    tenant: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict[str, Any])
    attempts: int = 0
    lease: str | None = None
    error: str = ""
    given_up_at: datetime | None = None


class FakeJobs:
    """Implements ``Jobs``."""

    def __init__(self, clock: Clock, note: Callable[..., None] = lambda *_: None) -> None:
        """``note``: writes to the audit log."""
        self._clock, self._note = clock, note
        self.rows: dict[tuple[str, str], Row] = {}

    def put(
        self, kind: str, key: str, tenant: str = "", payload: Mapping[str, Any] | None = None
    ) -> None:
        """Put a job. One that is there begins again."""
        now = self._clock.now()
        self.rows[kind, key] = Row(now, now, tenant, payload or {})

    def remove(self, kind: str, key: str) -> None:
        self.rows.pop((kind, key), None)

    def is_held(self, job: Job) -> bool:
        row = self.rows.get((job.kind, job.key))
        return row is not None and row.lease == job.lease

    async def due_kinds(self, kinds: Collection[str]) -> Collection[str]:
        return {kind for kind, _ in self._due(kinds)}

    async def take(
        self, kind: JobKind, most: int, except_of: Collection[str] = ()
    ) -> Sequence[Job]:
        now = self._clock.now()
        taken: list[Job] = []
        due = [name for name in self._due([kind.name]) if self.rows[name].tenant not in except_of]
        for name in sorted(due, key=lambda name: self._order(kind, *name))[:most]:
            row = self.rows[name]
            row.attempts, row.lease = row.attempts + 1, str(uuid.uuid4())
            row.due_at = now + timedelta(seconds=kind.lease_s)
            age_s = (now - row.created_at).total_seconds()
            taken.append(Job(*name, row.lease, row.attempts, row.tenant, row.payload, age_s))
        return taken

    async def renew(self, kind: JobKind, jobs: Sequence[Job]) -> int:
        leased = [job for job in jobs if self.is_held(job)]
        for job in leased:
            due_at = self._clock.now() + timedelta(seconds=kind.lease_s)
            self.rows[job.kind, job.key].due_at = due_at
        return len(leased)

    async def finish(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if self.is_held(job):
                self.remove(job.kind, job.key)

    async def retry(
        self, jobs: Sequence[Job], after_s: float, error: str = "", *, counts: bool = True
    ) -> None:
        for job in jobs:
            if self.is_held(job):
                row = self.rows[job.kind, job.key]
                row.due_at = self._clock.now() + timedelta(seconds=after_s)
                row.lease, row.error = None, error
                row.attempts -= not counts

    async def give_up(self, jobs: Sequence[Job], error: str) -> None:
        for job in jobs:
            if self.is_held(job):
                row = self.rows[job.kind, job.key]
                row.lease, row.error, row.given_up_at = None, error, self._clock.now()

    async def backlog(self, kinds: Collection[str]) -> Mapping[str, JobFigures]:
        now = self._clock.now()
        figures: dict[str, JobFigures] = {}
        for kind in kinds:
            due = [self.rows[name].due_at for name in self._due([kind])]
            given_up = sum(
                of == kind and row.given_up_at is not None for (of, _), row in self.rows.items()
            )
            oldest_s = (now - min(due, default=now)).total_seconds()
            figures[kind] = JobFigures(len(due), oldest_s, given_up)
        return figures

    async def failing(self, most: int) -> Sequence[FailingJob]:
        failures = [(name, row) for name, row in self.rows.items() if row.error]
        failures.sort(key=lambda failure: (failure[1].given_up_at is None, failure[1].created_at))
        return [_failing(*failure) for failure in failures[:most]]

    async def restart(self, job: str, actor: Actor) -> FailingJob | None:
        kind, _, key = job.partition("/")
        row = self.rows.get((kind, key))
        if row is None or not row.error:
            return None
        row.attempts, row.given_up_at = 0, None
        if row.lease is None:
            row.due_at = self._clock.now()
        self._note(actor, "job.restart", job)
        return _failing((kind, key), row)

    async def forget(self, age_s: float) -> None:
        before = self._clock.now() - timedelta(seconds=age_s)
        for name, row in [*self.rows.items()]:
            if row.given_up_at is not None and row.given_up_at < before:
                self.remove(*name)

    def _due(self, kinds: Collection[str]) -> list[tuple[str, str]]:
        now = self._clock.now()
        return [
            (kind, key)
            for (kind, key), row in self.rows.items()
            if kind in kinds and row.given_up_at is None and row.due_at <= now
        ]

    def _order(self, kind: JobKind, of: str, key: str) -> tuple[Any, ...]:
        row = self.rows[of, key]
        if not kind.fair:
            return (row.due_at,)
        under_way = sum(
            other.tenant == row.tenant
            and other.lease is not None
            and other.due_at > self._clock.now()
            for (another, _), other in self.rows.items()
            if another == of
        )
        return under_way, row.attempts, row.due_at


def _failing(name: tuple[str, str], row: Row) -> FailingJob:
    return FailingJob(
        "/".join(name),
        row.tenant,
        row.attempts,
        row.error,
        row.created_at,
        None if row.given_up_at or row.lease else row.due_at,
        row.given_up_at,
    )
