"""Fair order of queued requests: lanes and the charges to them.

Between tenants the order is by virtual time: a lane is charged the time of its requests divided by
its weight, and the lane with the lowest charge goes next. Within a tenant it is by rank: the submit
time, later for low priority and earlier for high, so each priority waits a bounded time for the
others. ``transactions/lease.py`` charges the expected time of leased requests to their lanes;
``LaneCharges`` charges the rest.

A lane is one row per pool and tenant, active while it has a queued request that is not paused.

``active`` is a hint that saves a look into thousands of idle lanes. A one-sided check of it can
leave a lane asleep with work in it: the submitter sees it active, and the leaser that drained it,
whose snapshot is older than the submitter's commit, puts it to sleep. So both look again after
their own commit, and a sweeper looks once a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.lease import LeasePreference, LeftOut
from serve_app.domain.ports import Clock
from serve_app.domain.request import Priority
from serve_app.postgres.database import UNAWAITED, Database
from serve_app.queue.fairness.pauses import PAUSED, not_paused
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits

log = logging.getLogger(__name__)

WAKE_INTERVAL_S = 0.05

Lane = tuple[str, str]  # pool, tenant

_NAMED = """
    SELECT * FROM json_to_recordset(%(lanes)s::json) AS x(
        pool text, tenant text, weight double precision)
"""
# No EXISTS: see insert.py.
_HAS_WORK = f"""
    (SELECT true FROM requests r WHERE r.pool = l.pool AND r.tenant = l.tenant
     AND r.state = 'queued' AND {not_paused(PAUSED)}
     ORDER BY r.ranked_at, r.place LIMIT 1) IS NOT NULL
"""


def pool_time(pool: str) -> str:
    """SQL for the virtual time of a pool; null without lanes. ``pool``: SQL for its name."""
    return f"""
    (SELECT p.served FROM fair_lanes p WHERE p.pool = {pool}
     ORDER BY p.pool DESC, p.served DESC LIMIT 1)
"""


AWAKE = f"""
    active = true, woken_at = clock_timestamp(),
    vtime = greatest(l.vtime, {pool_time("l.pool")})
"""
"""Assignments that wake a sleeping lane `l`. Its turn is not before the turn of lanes that are
already waiting.
"""


def wake_lanes(of: str) -> str:
    """Common table expressions that wake the lanes of the queued requests in the table ``of``.

    Lanes are locked in order first, as by every statement that writes several of them, so no two of
    them deadlock.
    """
    return f"""
asleep AS MATERIALIZED (
    SELECT l.pool, l.tenant
    FROM (SELECT DISTINCT pool, tenant FROM {of} WHERE state = 'queued') s
    JOIN fair_lanes l ON l.pool = s.pool AND l.tenant = s.tenant
    WHERE NOT l.active
    ORDER BY 1, 2 FOR NO KEY UPDATE OF l
),
woken AS (
    UPDATE fair_lanes l SET {AWAKE}
    FROM asleep s WHERE l.pool = s.pool AND l.tenant = s.tenant
)
"""


OPEN = f"""
-- name: open_lanes
INSERT INTO fair_lanes AS l (pool, tenant, weight, vtime, woken_at)
SELECT n.pool, n.tenant, n.weight, coalesce({pool_time("n.pool")}, 0), clock_timestamp()
FROM ({_NAMED}) n
ORDER BY 1, 2
ON CONFLICT (pool, tenant) DO UPDATE SET weight = excluded.weight
WHERE l.weight <> excluded.weight
"""
# Read first: the statement above locks the rows that it leaves alone.
OUTDATED = f"""
-- name: outdated_lanes
SELECT n.pool, n.tenant
FROM ({_NAMED}) n LEFT JOIN fair_lanes l ON l.pool = n.pool AND l.tenant = n.tenant
WHERE l.weight IS DISTINCT FROM n.weight
"""
WAKE = f"""
-- name: wake_lanes
WITH chosen AS (
    SELECT l.pool, l.tenant FROM fair_lanes l JOIN ({_NAMED}) n
        ON l.pool = n.pool AND l.tenant = n.tenant
    WHERE NOT l.active AND {_HAS_WORK}
    ORDER BY 1, 2 FOR NO KEY UPDATE OF l
)
UPDATE fair_lanes l SET {AWAKE} FROM chosen c
WHERE l.pool = c.pool AND l.tenant = c.tenant
RETURNING {UNAWAITED}
"""
SWEEP_AWAKE = f"""
-- name: sweep_lanes
WITH chosen AS (
    SELECT l.pool, l.tenant FROM fair_lanes l WHERE NOT l.active AND {_HAS_WORK}
    ORDER BY 1, 2 FOR NO KEY UPDATE OF l
)
UPDATE fair_lanes l SET {AWAKE} FROM chosen c
WHERE l.pool = c.pool AND l.tenant = c.tenant
"""
SWEEP_ASLEEP = f"""
-- name: sweep_lanes
WITH chosen AS (
    SELECT l.pool, l.tenant FROM fair_lanes l WHERE l.active AND NOT ({_HAS_WORK})
    ORDER BY 1, 2 LIMIT 500 FOR NO KEY UPDATE OF l SKIP LOCKED
)
UPDATE fair_lanes l SET active = false, rested = true FROM chosen c
WHERE l.pool = c.pool AND l.tenant = c.tenant
RETURNING l.pool, l.tenant
"""
# Uses the index of queued requests by endpoint.
REST = """
-- name: rest_lanes
WITH chosen AS (
    SELECT l.pool, l.tenant FROM fair_lanes l
    WHERE l.pool = %(pool)s AND l.active AND NOT l.rested AND (
        l.tenant = ANY(%(tenants)s::text[]) OR (
        SELECT true FROM requests r
        WHERE r.pool = l.pool AND r.tenant = l.tenant AND r.state = 'queued'
          AND r.endpoint = ANY(%(endpoints)s::text[]) LIMIT 1) IS NOT NULL)
    ORDER BY 1, 2 FOR NO KEY UPDATE OF l SKIP LOCKED
)
UPDATE fair_lanes l SET rested = true FROM chosen c
WHERE l.pool = c.pool AND l.tenant = c.tenant
"""


class Lanes:
    """Create, wake and put to sleep the lanes."""

    def __init__(self, database: Database, limits: QueueLimits) -> None:
        self._database = database
        self._limits = limits
        self._known: set[Lane] = set()
        self._to_check: set[Lane] = set()
        self._waking: asyncio.Task[None] | None = None

    async def open(self, lanes: Iterable[Lane]) -> None:
        """Create the missing rows of these lanes. Asks the database only about lanes new to this
        process.
        """
        new = set(lanes) - self._known
        if new:
            await self._open(new)

    async def correct(self, lanes: Iterable[Lane]) -> None:
        """Give these lanes the weights that their tenants have now, and create them again if they
        are gone: with a tenant that was deleted, before there was another one of its name.
        """
        batch = [*lanes]
        outdated = batch and await self._database.rows(
            OUTDATED, {"lanes": self._encode_lanes(batch)}
        )
        if outdated:
            await self._open({(pool, tenant) for pool, tenant in outdated})

    async def _open(self, lanes: set[Lane]) -> None:
        await self._database.rows(OPEN, {"lanes": self._encode_lanes(lanes)})
        self._known |= lanes

    async def wake_if_work(self, lanes: Iterable[Lane]) -> None:
        """Wake those of the lanes that have work. Call it after a commit."""
        await self._database.rows(WAKE, {"lanes": self._encode_lanes(lanes)})

    def wake_if_work_soon(self, lanes: Iterable[Lane]) -> None:
        """Do the same in the background. Lanes that arrive in between are looked at together."""
        self._to_check.update(lanes)
        if self._waking is None or self._waking.done():
            self._waking = asyncio.create_task(self._wake_collected())

    async def aclose(self) -> None:
        if self._waking is not None:
            self._waking.cancel()
            await asyncio.gather(self._waking, return_exceptions=True)

    async def _wake_collected(self) -> None:
        while self._to_check:
            lanes, self._to_check = self._to_check, set()
            try:
                await self.wake_if_work(lanes)
            except DatabaseUnavailable as error:
                log.debug("Lanes were not checked; the sweeper will do it: %s", error.message)
            await asyncio.sleep(WAKE_INTERVAL_S)

    async def skip_credit(self, pool: str, skipped: LeftOut) -> None:
        """Keep lanes from saving up turns while some replicas skip their requests.

        Applies to the lanes of the skipped tenants, and to lanes with requests for a skipped
        endpoint. Their next turn is at the pool's time.
        """
        endpoints, tenants = sorted(skipped.endpoints), sorted(skipped.tenants)
        params = {"pool": pool, "endpoints": endpoints, "tenants": tenants}
        await self._database.rows(REST, params)

    async def put_to_sleep(self) -> None:
        """Put drained lanes to sleep, and check them again."""
        asleep = await self._database.rows(SWEEP_ASLEEP)
        if asleep:
            await self.wake_if_work((pool, tenant) for pool, tenant in asleep)

    async def wake(self) -> None:
        """Wake every sleeping lane that has work."""
        await self._database.rows(SWEEP_AWAKE)

    def _encode_lanes(self, lanes: Iterable[Lane]) -> str:
        return messages.compact(
            [
                {"pool": pool, "tenant": tenant, "weight": self._limits.weight(tenant)}
                for pool, tenant in lanes
            ]
        )


# Charges to lanes, collected until the next statement that writes lanes. A lease granted
# in the insert charges the expected time. The end of an attempt charges or refunds the difference
# to the actual time. Charges are written with the next leasing in the pool, or within a second,
# so neither submit nor finish waits for a row that all of a tenant's requests share. If a process
# dies, its unwritten charges are lost: some seconds of fairness.

FLUSH = f"""
-- name: write_charges
WITH charged AS (
    SELECT * FROM json_to_recordset(%(charges)s::json) AS x(
        pool text, tenant text, seconds double precision)
),
locked AS (
    SELECT l.pool, l.tenant, c.seconds FROM charged c JOIN fair_lanes l
        ON l.pool = c.pool AND l.tenant = c.tenant
    ORDER BY 1, 2 FOR NO KEY UPDATE OF l
)
UPDATE fair_lanes l SET vtime = l.vtime + k.seconds / l.weight
FROM locked k WHERE l.pool = k.pool AND l.tenant = k.tenant
RETURNING {UNAWAITED}
"""


class LaneCharges:
    """Unwritten charges by pool and tenant, in seconds of a slot."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pools: dict[str, defaultdict[str, float]] = {}

    def add(self, pool: str, tenant: str, seconds: float) -> None:
        self._pools.setdefault(pool, defaultdict(float))[tenant] += seconds

    def take(self, pool: str) -> Mapping[str, float]:
        """Take all charges of a pool, by tenant, for a statement that writes them. ``restore`` them
        if it fails.
        """
        return self._pools.pop(pool, {})

    def restore(self, pool: str, charges: Mapping[str, float]) -> None:
        for tenant, seconds in charges.items():
            self.add(pool, tenant, seconds)

    async def flush(self) -> None:
        """Write the charges that no leasing has taken."""
        taken, self._pools = self._pools, {}
        if not taken:
            return
        rows = [
            {"pool": pool, "tenant": tenant, "seconds": seconds}
            for pool, charges in taken.items()
            for tenant, seconds in charges.items()
        ]
        try:
            await self._database.rows(FLUSH, {"charges": messages.compact(rows)})
        except BaseException:
            for pool, charges in taken.items():
                self.restore(pool, charges)
            raise


# Order within a lane, which `transactions/lease_sql.py` applies.

HEAD_START_S = 600.0
"""Head start of one priority level. A low-priority request is overtaken by its tenant's normal ones
submitted within ten minutes after it, and by no later ones.
"""

LOOK_AHEAD = 32
"""Number of requests at the front of a lane that may be reordered to use loaded weights."""

LOOK_NEAR = 8
"""The same where none of them would go before an older one: see ``Reordering``."""

HOT_LEAD_S = 30
"""A request whose endpoint is hot goes before cold requests that are older by at most this many
seconds.
"""

HOST_LEAD_S = 20
"""The same for an endpoint whose weights are in host memory: the copy to the device is left to do.
So a hot request goes before those that are older by at most the difference.
"""

DUE_SOON_S = 5
"""A request that expires within this many seconds goes first in its lane."""


def head_start_s(priority: Priority) -> float:
    """Seconds added to the submit time."""
    return HEAD_START_S * (Priority.NORMAL - priority)


MAX_DUE_AGE_S = 3.0
"""A look for requests that expire soon is not used if it is older."""
BETWEEN_LOOKS_S = 2.0
"""What is due by then may be promoted before the next look."""

LOOK_FOR_DUE = """
-- name: look_for_due
SELECT DISTINCT pool FROM requests
WHERE state = 'queued' AND start_by < now() + make_interval(secs => %(within_s)s)
"""


class Reordering:
    """Requests that may go before older ones of their lane, as one process knows them: decides how
    far a leasing reads into lanes. A request that expires soon is known after the next look, once a
    second.

    With a thousand lanes of a hundred requests, those that were read and not leased took a third of
    a leasing's time, and nearly always for nothing: all that waits in a pool has its weights
    loaded, or none has, and hardly any request expires soon.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._looked_at = float("-inf")
        self._due: frozenset[str] = frozenset()  # pools

    async def look(self) -> None:
        """Look for requests that expire soon."""
        at = self._clock.monotonic()
        rows = await self._database.rows(LOOK_FOR_DUE, {"within_s": DUE_SOON_S + BETWEEN_LOOKS_S})
        self._looked_at, self._due = at, frozenset(pool for (pool,) in rows)

    def reads_far(
        self, pool: str, wants: LeasePreference, slots: int, *, not_hot: int, lanes: int
    ) -> bool:
        """Return whether a leasing for so many ``slots`` reads ``LOOK_AHEAD`` requests of each lane
        and not ``LOOK_NEAR``.

        ``not_hot``: queued requests of the pool for endpoints whose weights are not on the device.
        ``lanes``: those with queued requests. Where there are as many as slots, each is leased one
        or a few, and one that is due more gets the rest with the next leasing.
        """
        fills_slots = slots <= LOOK_NEAR or slots <= lanes
        differ = bool(wants.hot or wants.host) and not_hot > 0
        return differ or not fills_slots or self._may_be_due(pool)

    def _may_be_due(self, pool: str) -> bool:
        age_s = self._clock.monotonic() - self._looked_at
        return pool in self._due or age_s > MAX_DUE_AGE_S
