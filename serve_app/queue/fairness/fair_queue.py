"""Lanes: a row per pool and tenant, active while something is queued in it that is not paused.

``active`` is a hint that saves looking into thousands of idle lanes. A one-sided check of it can
leave a lane asleep with work in it: the submitter sees it active, and the leaser that drained it,
whose snapshot is older than the submitter's commit, puts it to sleep. So both look again after
their own commit, and a sweeper looks once a second.

What a lane has been given is charged in ``leasing.py``; what is left of that, in ``charges.py``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.queue import wording
from serve_app.queue.database import Database
from serve_app.queue.halts import NOT_PAUSED
from serve_app.queue.limits import QueueLimits

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.05

Lane = tuple[str, str]  # pool, tenant

_NAMED = """
    SELECT * FROM json_to_recordset(%(lanes)s::json) AS x(
        pool text, tenant text, weight double precision)
"""
# Not EXISTS: see submit.py.
_HAS_WORK = f"""
    (SELECT true FROM requests r WHERE r.pool = l.pool AND r.tenant = l.tenant
     AND r.state = 'queued' AND {NOT_PAUSED} ORDER BY r.ranked_at, r.place LIMIT 1) IS NOT NULL
"""

_POOL_TIME = """
    (SELECT p.served FROM fair_lanes p WHERE p.pool = {lane}.pool
     ORDER BY p.pool DESC, p.served DESC LIMIT 1)
"""
AWAKE = f"""
    active = true, woken_at = clock_timestamp(),
    vtime = greatest(l.vtime, {_POOL_TIME.format(lane="l")})
"""
"""What is set of a lane `l` that slept. Its turn is not before that of those that wait already."""

OPEN = f"""
INSERT INTO fair_lanes AS l (pool, tenant, weight, vtime, woken_at)
SELECT n.pool, n.tenant, n.weight, coalesce({_POOL_TIME.format(lane="n")}, 0), clock_timestamp()
FROM ({_NAMED}) n
ORDER BY 1, 2
ON CONFLICT (pool, tenant) DO UPDATE SET weight = excluded.weight
WHERE l.weight <> excluded.weight
"""
WAKE = f"""
WITH chosen AS (
    SELECT l.pool, l.tenant FROM fair_lanes l JOIN ({_NAMED}) n
        ON l.pool = n.pool AND l.tenant = n.tenant
    WHERE NOT l.active AND {_HAS_WORK}
    ORDER BY 1, 2 FOR NO KEY UPDATE OF l
)
UPDATE fair_lanes l SET {AWAKE} FROM chosen c
WHERE l.pool = c.pool AND l.tenant = c.tenant
"""
SWEEP_AWAKE = f"UPDATE fair_lanes l SET {AWAKE} WHERE NOT l.active AND {_HAS_WORK}"
SWEEP_ASLEEP = f"""
WITH chosen AS (
    SELECT l.pool, l.tenant FROM fair_lanes l WHERE l.active AND NOT ({_HAS_WORK})
    ORDER BY 1, 2 LIMIT 500 FOR NO KEY UPDATE OF l SKIP LOCKED
)
UPDATE fair_lanes l SET active = false, rested = true FROM chosen c
WHERE l.pool = c.pool AND l.tenant = c.tenant
RETURNING l.pool, l.tenant
"""
# By the index of what is queued for an endpoint.
REST = """
WITH chosen AS (
    SELECT l.pool, l.tenant FROM fair_lanes l
    WHERE l.pool = %(pool)s AND l.active AND NOT l.rested AND (
        SELECT true FROM requests r
        WHERE r.pool = l.pool AND r.tenant = l.tenant AND r.state = 'queued'
          AND r.endpoint = ANY(%(endpoints)s::text[]) LIMIT 1) IS NOT NULL
    ORDER BY 1, 2 FOR NO KEY UPDATE OF l SKIP LOCKED
)
UPDATE fair_lanes l SET rested = true FROM chosen c
WHERE l.pool = c.pool AND l.tenant = c.tenant
"""


class Lanes:
    def __init__(self, database: Database, limits: QueueLimits) -> None:
        self._database = database
        self._limits = limits
        self._known: set[Lane] = set()
        self._doubted: set[Lane] = set()
        self._looking: asyncio.Task[None] | None = None

    async def open(self, lanes: Iterable[Lane]) -> None:
        """Make sure that their rows exist. Asks the database only for lanes new to this process."""
        new = set(lanes) - self._known
        if new:
            await self._database.rows(OPEN, {"lanes": self._named(new)})
            self._known |= new

    async def look_again(self, lanes: Iterable[Lane]) -> None:
        """After a commit: wake those of them that have work."""
        await self._database.rows(WAKE, {"lanes": self._named(lanes)})

    def look_again_soon(self, lanes: Iterable[Lane]) -> None:
        """The same off the caller's way; those that come meanwhile go together."""
        self._doubted.update(lanes)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        while self._doubted:
            lanes, self._doubted = self._doubted, set()
            try:
                await self.look_again(lanes)
            except DatabaseUnavailable as error:
                log.debug("Lanes are left to the sweeper: %s", error.message)
            await asyncio.sleep(LOOK_AGAIN_S)

    async def rest(self, pool: str, endpoints: Iterable[str]) -> None:
        """Lanes with requests for one of ``endpoints``, which some replicas pass over, save up no
        turns meanwhile: their next one is that of the pool."""
        await self._database.rows(REST, {"pool": pool, "endpoints": sorted(endpoints)})

    async def sweep(self) -> None:
        """Put drained lanes to sleep, look again at those, and wake every other that has work."""
        asleep = await self._database.rows(SWEEP_ASLEEP)
        if asleep:
            await self.look_again((pool, tenant) for pool, tenant in asleep)
        await self._database.rows(SWEEP_AWAKE)

    def _named(self, lanes: Iterable[Lane]) -> str:
        return wording.compact(
            [
                {"pool": pool, "tenant": tenant, "weight": self._limits.weight(tenant)}
                for pool, tenant in lanes
            ]
        )
