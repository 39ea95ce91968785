"""Queue positions of requests, and the work ahead of them.

They are read once a second for the requests that clients ask about, and adjusted by what this
process sees leaving; they are never read for a single call. The first ``DEEP`` requests of a pool
are in order. Requests behind them keep their initial position, minus the requests that have left.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from serve_app.domain.ports import Clock
from serve_app.domain.request import Request
from serve_app.postgres.database import Database
from serve_app.queue.fairness.cost_model import CostModel
from serve_app.queue.state.duty_cycle import DutyCycle
from serve_app.queue.store import messages

DEEP = 20_000
RECOUNT_S = 0.1  # shortest interval between reads outside the periodic ones
NEW_S = 2.0
DUTY_FACTOR = 20  # a slow read runs less often: at most 1/20 of the time is spent reading
LOOKED_AT_S = 10.0

# The order is that of lease_sql.py, by the times expected at the submit. The seconds are the times
# expected now.
READ = f"""
-- name: read_positions
WITH pool_lanes AS MATERIALIZED (
    SELECT p.pool, greatest(50, {DEEP} / greatest(1, (
               SELECT count(*) FROM fair_lanes l WHERE l.pool = p.pool AND l.active))) AS deep,
           coalesce((SELECT served FROM fair_lanes l WHERE l.pool = p.pool
                     ORDER BY served DESC LIMIT 1), 0) AS v
    FROM unnest(%(pools)s::text[]) AS p(pool)
),
line AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(lines)s::json) AS x(
        pool text, endpoint text, fixed_s double precision, rate_s double precision)
),
own AS (
    SELECT q.id, q.pool, q.place, q.seconds,
           greatest(q.vtime, CASE WHEN q.rested THEN q.v END)
               + coalesce(sum(q.expected_s) OVER before, 0) / q.weight AS start,
           coalesce(sum(q.seconds) OVER before, 0) AS own_ahead_s,
           row_number() OVER (PARTITION BY q.pool, q.tenant ORDER BY q.ranked_at, q.place) - 1
               AS own_ahead
    FROM (
        SELECT r.*, l.vtime, l.weight, l.rested, t.v,
               coalesce(e.fixed_s + e.rate_s * r.work, r.expected_s) AS seconds
        FROM pool_lanes t JOIN fair_lanes l ON l.pool = t.pool AND l.active
        CROSS JOIN LATERAL (
            SELECT id, pool, tenant, endpoint, place, ranked_at, expected_s, work FROM requests q
            WHERE q.pool = l.pool AND q.tenant = l.tenant AND q.state = 'queued'
            ORDER BY q.ranked_at, q.place LIMIT t.deep
        ) r LEFT JOIN line e ON e.pool = r.pool AND e.endpoint = r.endpoint
    ) q
    WINDOW before AS (
        PARTITION BY q.pool, q.tenant ORDER BY q.ranked_at, q.place
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT id::text, position, ahead_s, own_ahead, own_ahead_s FROM (
    SELECT id, row_number() OVER before_all - 1 AS position,
           coalesce(sum(seconds) OVER (
               before_all ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS ahead_s,
           own_ahead, own_ahead_s
    FROM own WINDOW before_all AS (PARTITION BY pool ORDER BY start, place)
) ranked
WHERE id = ANY(%(ids)s::uuid[])
"""


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """Position of a request: requests ahead of it and their seconds of a slot, in its pool and of
    its own tenant.
    """

    position: int
    ahead_s: float
    own_ahead: int = 0
    own_ahead_s: float = 0.0

    def after(self, left: int) -> QueuePosition:
        """The position after ``left`` requests ahead of it have left."""
        position = max(0, self.position - left)
        own = min(self.own_ahead, position)
        return QueuePosition(
            position,
            self.ahead_s * position / self.position if self.position else 0.0,
            own,
            self.own_ahead_s * own / self.own_ahead if self.own_ahead else 0.0,
        )


class Positions:
    """Positions of requests, from memory."""

    def __init__(self, database: Database, clock: Clock, costs: CostModel) -> None:
        self._database = database
        self._clock = clock
        self._duty = DutyCycle(clock, DUTY_FACTOR)
        self._costs = costs
        self._places: dict[str, QueuePosition] = {}
        self._left: Counter[str] = Counter()  # by pool, since its positions were read
        self._looked_at: dict[str, tuple[str, float]] = {}
        self._reading = asyncio.Lock()  # two reads at once would take off twice what has left

    def note_queued(self, request: Request, before: int, own_before: int) -> None:
        """Note a new queued request, with the approximate number of requests ahead of it."""
        ahead = self._left[request.pool] + before
        self._places[request.id] = self.guess(request.pool, ahead, own_before)
        # Its position is read in the next seconds, as if a client had asked for it.
        now = self._clock.monotonic()
        self._looked_at[request.id] = (request.pool, now - LOOKED_AT_S + NEW_S)

    def count_removal(self, pool: str) -> None:
        self._left[pool] += 1

    async def of(self, request: Request, behind: Callable[[], tuple[int, int]]) -> QueuePosition:
        """Position of the request.

        ``behind`` is called if it is unknown: it returns how many requests are ahead of the
        tenant's last one, and how many of these are the tenant's own.
        """
        now = self._clock.monotonic()
        self._looked_at[request.id] = (request.pool, now)
        if request.id not in self._places and self._duty.is_due(RECOUNT_S):
            async with self._reading:
                if request.id not in self._places and self._duty.is_due(RECOUNT_S):
                    await self._read()
        known = self._places.get(request.id)
        if known is not None:
            return known.after(self._left[request.pool])
        return self.guess(request.pool, *behind())

    async def refresh(self) -> None:
        now = self._clock.monotonic()
        self._looked_at = {
            id_: look for id_, look in self._looked_at.items() if now - look[1] < LOOKED_AT_S
        }
        async with self._reading:
            if self._duty.is_due():
                await self._read()

    async def read_at_once(self, requests: Iterable[Request]) -> None:
        """Read the positions of these requests too, however long the last read took."""
        now = self._clock.monotonic()
        self._looked_at |= {request.id: (request.pool, now) for request in requests}
        async with self._reading:
            await self._read()

    def guess(self, pool: str, ahead: int, own_ahead: int) -> QueuePosition:
        """Position behind so many requests, as if each took the pool's mean time."""
        each_s = self._costs.mean_s(pool)
        return QueuePosition(ahead, ahead * each_s, own_ahead, own_ahead * each_s)

    async def _read(self) -> None:
        before = Counter(self._left)
        pools = {id_: pool for id_, (pool, _) in self._looked_at.items()}
        positions: dict[str, QueuePosition] = {}
        if pools:
            params = {
                "pools": sorted(set(pools.values())),
                "ids": [*pools],
                "lines": messages.compact(self._costs.as_rows()),
            }
            with self._duty.run():
                rows = await self._database.rows(READ, params)
            positions = {id_: QueuePosition(*numbers) for id_, *numbers in rows}
        # Requests that were queued in between, and requests deeper than the read goes.
        others = {
            id_: self._places[id_].after(before[pool])
            for id_, (pool, _) in self._looked_at.items()
            if id_ in self._places and id_ not in positions
        }
        self._places = others | positions
        self._left.subtract(before)
