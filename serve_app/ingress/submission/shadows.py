"""Background worker that stores copies of requests for their shadows, and the handler of jobs that
delete those of deleted originals.

One ingress process runs the worker, chosen by election. What it does may be done twice, by two
workers at once or again after a crash: a copy has the id of its original as its idempotency key.

Copies use what is idle: one is submitted only while nothing is queued in its pool.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING

from serve_app.catalog.entries import CatalogEntry
from serve_app.domain.errors import (
    AlreadyFinal,
    DarkroomError,
    DatabaseUnavailable,
    Overloaded,
    RequestActive,
    RequestNotFound,
    Unavailable,
)
from serve_app.domain.executors.fallback import FallbackBudget
from serve_app.domain.executors.shadow import (
    LINGER_S,
    SHADOW_TENANT,
    ShadowCandidate,
    ShadowState,
)
from serve_app.domain.request import NewRequest, Priority
from serve_app.domain.sharing.fair_queue import work_of
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.fallback import CannotRunThere, cost_there, input_there
from serve_app.ingress.submission.options import SubmitOptions
from serve_app.jobs.jobs import Job, JobHandler, JobKind, Retry
from serve_app.tenants.scopes import SUBMIT, Caller

if TYPE_CHECKING:
    from serve_app.catalog.source import ShadowSource

log = logging.getLogger(__name__)

EVERY_S = 1.0
LEADS_EVERY_S = 5.0
AT_ONCE = 8
"""Requests of a target that are read together, with their inputs."""
PER_ROUND = 64
MOST_RUNNING = 16
"""Most copies of a target that run, so that they leave slots free even in a large idle pool."""
MOST_QUEUED = 1
"""A copy is submitted while fewer requests are queued in its pool."""
ACTIVE_AGAIN_S = 1.0
LINGERING_AGAIN_S = 30.0
"""When a copy is looked for again that a worker that stands still may store."""


class ShadowWorker:
    """Copies of one ingress process. Call ``advance`` again and again."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._book = services.queue.shadows

    async def advance(self) -> None:
        """Store the copies for which there is room."""
        with work_of(SHADOW_TENANT):
            for _ in range(PER_ROUND // AT_ONCE):
                candidates = await self._book.candidates(AT_ONCE)
                if not candidates or not await self._copy(candidates):
                    return

    async def _copy(self, candidates: Sequence[ShadowCandidate]) -> bool:
        """Copy requests. False: none of them could be."""
        running, done = await self._book.running(), 0
        for target, group in groupby(candidates, lambda shadow: shadow.target):
            room = MOST_RUNNING - running.get(target, 0)
            try:
                for candidate in [*group][: max(0, room)]:
                    await self._copy_one(candidate)
                    done += 1
            except (Overloaded, Unavailable) as error:
                if isinstance(error, DatabaseUnavailable):
                    raise  # it may be stored: its key finds it
        return done > 0

    async def _copy_one(self, candidate: ShadowCandidate) -> None:
        """Store the copy of a request, or say why it gets none. ``Overloaded``, ``Unavailable``: it
        waits."""
        services, original = self._services, candidate.original
        try:
            new, budget, cost = await self._request(candidate)
        except CannotRunThere as error:
            await self._skip(candidate, f"It cannot run at {candidate.target}: {error}.")
            return
        if candidate.state is ShadowState.WAITING and not await self._book.take(
            original, budget, cost
        ):
            return
        try:
            stored = await asyncio.shield(submission.submit(services, new, MOST_QUEUED))
        except (Overloaded, Unavailable):
            raise
        except DarkroomError as error:
            await self._skip(candidate, error.message)
            return
        services.metrics.queue.count_shadow(candidate.endpoint, ShadowState.SENT)
        if not await self._book.mark_sent(candidate, stored.id):
            log.info("The original %s was deleted meanwhile, and its copy will be.", original)

    async def _skip(self, candidate: ShadowCandidate, reason: str) -> None:
        await self._book.skip(candidate.original, reason)
        self._services.metrics.queue.count_shadow(candidate.endpoint, ShadowState.SKIPPED)

    async def _request(
        self, candidate: ShadowCandidate
    ) -> tuple[NewRequest, FallbackBudget | None, Decimal]:
        """Validated copy, the budget that has to cover it, and what it counts there."""
        services = self._services
        entry, other, source = self._entries(candidate)
        if candidate.tenant in source.except_tenants:
            raise CannotRunThere("the requests of its tenant are not copied any more")
        other_input = input_there(
            services, candidate.tenant, entry, other, candidate.input, source.fields
        )
        budget = None if source.budget is None else FallbackBudget.parse(source.budget)
        price = services.price_of(other)
        cost = Decimal(0) if budget is None else cost_there(other, price, other_input, budget)
        options = SubmitOptions(
            priority=Priority.LOW,
            idempotency_key=candidate.original,
            # A repeat is the same copy, also if the catalogue has changed since.
            repeat_digest=hashlib.sha256(candidate.original.encode()).digest(),
            cache=False,
            previews=False,
            no_fallback=True,
            no_shadow=True,
        )
        caller = Caller("", SHADOW_TENANT, frozenset({SUBMIT}))
        try:
            new = await submission.validate(
                services,
                caller,
                candidate.target,
                other_input,
                options,
                request_id=services.new_id(),
            )
        except (Overloaded, DatabaseUnavailable):
            raise
        except DarkroomError as error:  # also one that no pool hosts: waiting does not help
            raise CannotRunThere(error.message.rstrip(".")) from None
        return new, budget, cost

    def _entries(
        self, candidate: ShadowCandidate
    ) -> tuple[CatalogEntry, CatalogEntry, ShadowSource]:
        """Entries of both endpoints as they are now, and what the first one says about copies."""
        catalog = self._services.catalog
        entry, other = catalog.find(candidate.endpoint), catalog.find(candidate.target)
        source = None if entry is None else entry.source.shadow
        if entry is None or source is None or source.endpoint != candidate.target:
            raise CannotRunThere(f"{candidate.endpoint} does not name it as its shadow any more")
        if other is None or other.missing:
            raise CannotRunThere("it is not served here")
        return entry, other, source


class CopyDeletion(JobHandler):
    """Handler of jobs that delete the copies of requests that were deleted, and end those that
    run."""

    kind = JobKind("copy", first_wait_s=2.0, max_wait_s=60.0, parallel=4)

    def __init__(self, services: Services) -> None:
        self._services = services

    async def run(self, jobs: Sequence[Job]) -> Sequence[Retry]:
        (job,) = jobs
        with work_of(SHADOW_TENANT):
            if await self._is_active(job):
                return [Retry(jobs, ACTIVE_AGAIN_S, counts=False)]
        if job.payload["state"] == ShadowState.SENDING and job.age_s < LINGER_S:
            return [Retry(jobs, LINGERING_AGAIN_S, counts=False)]
        return ()

    async def _is_active(self, job: Job) -> bool:
        """End the copy or delete it. True: it has not ended yet."""
        queue, payload = self._services.queue, job.payload
        copy = await queue.shadows.find_copy(job.key, payload["target"], payload["copy"])
        if copy is None:
            return False
        try:
            if copy.active:
                await queue.cancel(SHADOW_TENANT, copy.id)
                return True
            await queue.delete(SHADOW_TENANT, copy.id)
        except (AlreadyFinal, RequestActive):
            return True  # it has ended meanwhile, or has not yet
        except RequestNotFound:
            log.info("The copy %s was deleted meanwhile.", copy.id)
        return False
