"""What is looked at again and again: time that ran out, replicas that died, notifications that got
lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from serve_app.domain.errors import DarkroomError
from serve_app.domain.ports import Clock, Liveness
from serve_app.queue import wording
from serve_app.queue.aftermath import Aftermath
from serve_app.queue.census import Census
from serve_app.queue.database import Database
from serve_app.queue.endings import Endings, How
from serve_app.queue.leaving import expire
from serve_app.queue.limits import QueueLimits
from serve_app.queue.presence import PresenceBook
from serve_app.telemetry.logs import about

log = logging.getLogger(__name__)

HOLDERS = "SELECT DISTINCT actor_id FROM requests WHERE state = 'running'"
FORGET_PROGRESS = """
DELETE FROM progress p WHERE NOT EXISTS (
    SELECT FROM requests r
    WHERE r.id = p.request_id AND r.attempt = p.attempt AND r.lease_until IS NOT NULL)
"""

Chore = Callable[[], Awaitable[None]]


class Recovery:
    """Any number of ingress processes may do this at once: each row is locked while it is decided
    on, and decided on once."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        limits: QueueLimits,
        liveness: Liveness,
        endings: Endings,
        census: Census,
        presence: PresenceBook,
    ) -> None:
        self._database = database
        self._clock = clock
        self._limits = limits
        self._liveness = liveness
        self._endings = endings
        self._census = census
        self._presence = presence
        self._healthy_since: float | None = None
        self._looked_at = clock.monotonic()

    async def heartbeat(self) -> None:
        """Count what is there. It also tells for how long the database has answered us."""
        now = self._clock.monotonic()
        elapsed_s, self._looked_at = now - self._looked_at, now
        try:
            await self._census.refresh(elapsed_s)
        except DarkroomError:
            self._healthy_since = None
            raise
        if self._healthy_since is None:
            self._healthy_since = self._clock.monotonic()

    async def reap(self, aftermath: Aftermath) -> None:
        """End leases that have run out, and those of requests whose time in all has.

        Only after one lease's time with the database: while this process or the database was away,
        nobody could renew, and the replicas work on.
        """
        since = self._healthy_since
        if since is None or self._clock.monotonic() - since < self._limits.lease_s:
            return
        while ended := [
            *await self._endings.end_expired(),
            *await self._endings.end_out_of_time(self._limits.overtime_s),
        ]:
            for each in ended:
                with about(each.held.request_id):
                    log.warning(
                        "Request %s, attempt %s, is taken from replica %s: its %s",
                        each.held.request_id, each.held.attempt, each.replica_id,
                        "deadline is over" if each.how is How.OUT_OF_TIME else "lease ran out",
                    )  # fmt: skip
            aftermath.ended(ended, fenced=True)

    async def bury(self, aftermath: Aftermath) -> None:
        """End at once the leases of replicas that are known to be dead."""
        rows = await self._database.rows(HOLDERS)
        actors = sorted({str(row[0]) for row in rows} | self._census.actors())
        if not actors:
            return
        bygone = await self._liveness.bygone(actors)
        dead = await self._liveness.dead(actors) - bygone
        aftermath.room.bury(dead | bygone)  # before what they held can be leased to them again
        await self._end_of(bygone, How.STOPPED, aftermath)
        await self._end_of(dead, How.LOST, aftermath)
        await self._presence.bury(dead | bygone)

    async def _end_of(self, actors: frozenset[str], how: How, aftermath: Aftermath) -> None:
        while actors and (ended := await self._endings.end_of_actors(sorted(actors), how)):
            for each in ended:
                with about(each.held.request_id):
                    log.warning(
                        "Replica %s is gone (%s); request %s, attempt %s, ends",
                        each.replica_id, how, each.held.request_id, each.held.attempt,
                    )  # fmt: skip
            aftermath.ended(ended)

    async def expire(self, aftermath: Aftermath) -> None:
        """End queued requests whose time to start, or in all, is over."""
        for failure, in_all in ((wording.not_in_time(), True), (wording.expired(), False)):
            while left := await expire(self._database, failure, in_all=in_all):
                aftermath.left(left, failure)

    async def forget_progress(self) -> None:
        await self._database.rows(FORGET_PROGRESS)


class Rounds:
    """Does its chores one after the other, every ``every_s``, and survives whatever they raise."""

    def __init__(self, every_s: float, chores: Sequence[Chore]) -> None:
        self._every_s = every_s
        self._chores = chores
        self._task: asyncio.Task[None] | None = None
        self._failing: set[int] = set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._go())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _go(self) -> None:
        while True:
            for number, chore in enumerate(self._chores):
                await self._do(number, chore)
            await asyncio.sleep(self._every_s)

    async def _do(self, number: int, chore: Chore) -> None:
        try:
            await chore()
        except DarkroomError as error:
            if number not in self._failing:
                log.warning("%s", error.message)
            self._failing.add(number)
        except Exception:
            log.exception("A chore of the queue failed; it is done again in %s s", self._every_s)
        else:
            self._failing.discard(number)
