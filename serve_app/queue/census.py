"""How much is queued, where in the queue a request is, and which replicas exist.

Counted once a second for everybody, and adjusted by what this process does in between; never
counted for one call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from serve_app.domain.errors import Overloaded
from serve_app.domain.lease import Demand, Presence, ReplicaStage
from serve_app.domain.ports import Clock
from serve_app.domain.request import Priority, Request, State, Waiting, WaitReason
from serve_app.queue.database import Database
from serve_app.queue.limits import QueueLimits

COUNT = "SELECT pool, tenant, count(*) FROM requests WHERE state = 'queued' GROUP BY pool, tenant"
POSITIONS = """
SELECT id::text, place FROM (
    SELECT id, row_number() OVER (PARTITION BY pool ORDER BY priority DESC, place) - 1 AS place
    FROM requests WHERE state = 'queued' AND pool = ANY(%(pools)s::text[])
) ranked
WHERE id = ANY(%(ids)s::uuid[])
"""
PRESENT = """
SELECT replica_id, actor_id, pool, stage, detail FROM replicas
WHERE seen_at > now() - make_interval(
    secs => CASE stage WHEN 'starting' THEN %(starting_s)s ELSE %(ready_s)s END)
"""
DEMAND = """
WITH running AS (
    SELECT pool, count(*) AS running FROM requests WHERE state = 'running' GROUP BY pool
),
there AS (SELECT pool, max(slots) AS slots, max(busy_at) AS busy_at FROM replicas GROUP BY pool),
oldest AS (
    SELECT p.pool, min(o.created_at) AS at
    FROM unnest(%(pools)s::text[]) AS p(pool)
    CROSS JOIN unnest(%(priorities)s::smallint[]) AS q(priority)
    CROSS JOIN LATERAL (
        SELECT created_at FROM requests r
        WHERE r.pool = p.pool AND r.priority = q.priority AND r.state = 'queued'
        ORDER BY r.place LIMIT 1) o
    GROUP BY p.pool
)
SELECT pool, coalesce(r.running, 0), coalesce(t.slots, 1),
       coalesce(extract(epoch FROM now() - o.at), 0)::double precision,
       extract(epoch FROM now() - t.busy_at)::double precision
FROM running r FULL JOIN there t USING (pool) FULL JOIN oldest o USING (pool)
"""

RECOUNT_S = 0.1  # at most so often beside the rounds
NEW_S = 2.0
EASE = 20  # a count that takes long is made less often: at most a twentieth of the time
LOOKED_AT_S = 10.0
STARTING_S = 900.0  # imports may block one that starts; its death is noticed by its actor
READY_S = 15.0  # an ask lasts a few seconds


class Tally:
    """Requests queued by pool and tenant: a snapshot, and what has changed since it was begun.

    What is committed while the snapshot is taken may be counted twice until the next, never not at
    all.
    """

    def __init__(self) -> None:
        self._counted: Counter[tuple[str, str]] = Counter()
        self._since: Counter[tuple[str, str]] = Counter()
        self._before: Counter[tuple[str, str]] = Counter()

    @property
    def in_all(self) -> int:
        return max(0, self._counted.total() + self._since.total() + self._before.total())

    def of_tenant(self, tenant: str) -> int:
        return self._sum(1, tenant)

    def in_pool(self, pool: str) -> int:
        return self._sum(0, pool)

    def pools(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for tally in (self._counted, self._since, self._before):
            for (pool, _), n in tally.items():
                found[pool] += n
        return +found

    def change(self, pool: str, tenant: str, by: int) -> None:
        key = (pool, tenant)
        self._since[key] += by
        if not self._since[key]:
            del self._since[key]

    def snapshot_begins(self) -> None:
        self._before.update(self._since)
        self._since.clear()

    def snapshot(self, rows: Sequence[tuple[str, str, int]]) -> None:
        self._counted = Counter({(pool, tenant): count for pool, tenant, count in rows})
        self._before.clear()

    def _sum(self, part: int, value: str) -> int:
        tallies = (self._counted, self._since, self._before)
        return max(0, sum(n for each in tallies for key, n in each.items() if key[part] == value))


class Census:
    def __init__(self, database: Database, clock: Clock, limits: QueueLimits) -> None:
        self._database = database
        self._clock = clock
        self._limits = limits
        self._queued = Tally()
        self._coming = Tally()  # admitted, and not yet stored
        self._counted_at = float("-inf")
        self._count_took_s = 0.0
        self._positions_took_s = 0.0
        self._left: Counter[str] = Counter()  # the queue of a pool, since its positions were read
        self._positions: dict[str, int] = {}
        self._looked_at: dict[str, tuple[str, float]] = {}
        self._positions_at = float("-inf")
        self._present: dict[str, Presence] = {}
        self._rate = 0.0  # requests that leave the queue, per second, smoothed
        self._gone = 0
        self._busy_at: dict[str, float] = {}
        self._started = clock.monotonic()

    # Caps

    async def admit(self, pool: str, tenant: str) -> None:
        """Count one in. ``Overloaded`` past the caps."""
        if self._past_caps(tenant) and self._clock.monotonic() - self._counted_at > RECOUNT_S:
            await self._count()
        refused = self._past_caps(tenant)
        if refused is not None:
            raise refused
        self._coming.change(pool, tenant, 1)
        self._busy_at[pool] = self._clock.monotonic()

    def refused(self, pool: str, tenant: str) -> None:
        """One that was admitted was not stored."""
        self._coming.change(pool, tenant, -1)

    def entered(self, request: Request) -> None:
        """It was stored; if queued, then behind all that are known to be queued in its pool."""
        request_id, pool = request.id, request.pool
        self._coming.change(pool, request.tenant, -1)
        if request.state is not State.QUEUED:
            self._gone += 1
            return
        self._queued.change(pool, request.tenant, 1)
        self._positions[request_id] = self._left[pool] + max(0, self._queued.in_pool(pool) - 1)
        # Its place is read in the next seconds, as if somebody had asked for it.
        self._looked_at[request_id] = (pool, self._clock.monotonic() - LOOKED_AT_S + NEW_S)

    def left(self, pool: str, tenant: str) -> None:
        """One left the queue."""
        self._queued.change(pool, tenant, -1)
        self._left[pool] += 1
        self._gone += 1

    def entered_again(self, pool: str, tenant: str) -> None:
        self._queued.change(pool, tenant, 1)

    def _past_caps(self, tenant: str) -> Overloaded | None:
        waiting = self._queued.in_all + self._coming.in_all
        own = self._queued.of_tenant(tenant) + self._coming.of_tenant(tenant)
        if waiting >= self._limits.max_waiting:
            return Overloaded(f"{waiting} requests are waiting already.", self._retry_s(waiting))
        if own >= self._limits.max_waiting_per_tenant:
            return Overloaded(f"{own} of your requests are waiting already.", self._retry_s(own))
        return None

    # Places

    async def waiting(self, request: Request) -> Waiting:
        now = self._clock.monotonic()
        self._looked_at[request.id] = (request.pool, now)
        if request.id not in self._positions and now - self._positions_at > max(
            RECOUNT_S, EASE * self._positions_took_s
        ):
            await self._refresh_positions()
        known = self._positions.get(request.id)
        behind_all = self._queued.in_pool(request.pool)
        position = behind_all if known is None else known - self._left[request.pool]
        return Waiting(max(0, position), *self._reason(request.pool))

    def _reason(self, pool: str) -> tuple[WaitReason, str]:
        here = [each for each in self._present.values() if each.pool == pool]
        ready = [each.detail for each in here if each.stage is ReplicaStage.READY]
        if ready:
            return WaitReason.BUSY, next(filter(None, ready), "")
        for each in here:
            if each.stage is ReplicaStage.STARTING:
                return WaitReason.COLD_START, each.detail
        return WaitReason.NO_REPLICA, ""

    # Replicas

    def present(self, presence: Presence) -> None:
        """A replica spoke to this process."""
        self._present[presence.replica_id] = presence

    def stage(self, replica_id: str) -> ReplicaStage | None:
        known = self._present.get(replica_id)
        return None if known is None else known.stage

    def bury(self, dead_actors: frozenset[str]) -> None:
        self._present = {
            id_: each for id_, each in self._present.items() if each.actor_id not in dead_actors
        }

    def actors(self) -> frozenset[str]:
        return frozenset(each.actor_id for each in self._present.values())

    # Once a second

    async def refresh(self, elapsed_s: float) -> None:
        await self._refresh_counts(elapsed_s)
        rows = await self._database.rows(PRESENT, {"starting_s": STARTING_S, "ready_s": READY_S})
        self._present = {
            row[0]: Presence(row[0], row[1], row[2], ReplicaStage(row[3]), row[4]) for row in rows
        }
        now = self._clock.monotonic()
        self._looked_at = {
            id_: each for id_, each in self._looked_at.items() if now - each[1] < LOOKED_AT_S
        }
        if now - self._positions_at > EASE * self._positions_took_s:
            await self._refresh_positions()

    async def demand(self) -> Mapping[str, Demand]:
        now = self._clock.monotonic()
        queued = self._queued.pools()
        params = {"pools": sorted(queued), "priorities": [int(each) for each in Priority]}
        found: dict[str, Demand] = {}
        for pool, running, slots, oldest_s, quiet_s in await self._database.rows(DEMAND, params):
            if queued[pool] or running:
                self._busy_at[pool] = now
            own_idle_s = now - self._busy_at.get(pool, self._started)
            idle_s = own_idle_s if quiet_s is None else min(own_idle_s, quiet_s)
            found[pool] = Demand(queued[pool], running, slots, oldest_s, max(0.0, idle_s))
        return found

    async def _refresh_counts(self, elapsed_s: float) -> None:
        if self._clock.monotonic() - self._counted_at > EASE * self._count_took_s:
            await self._count()
        self._rate += 0.2 * (self._gone / max(elapsed_s, 0.1) - self._rate)
        self._gone = 0

    async def _count(self) -> None:
        self._counted_at = self._clock.monotonic()
        self._queued.snapshot_begins()
        self._queued.snapshot(await self._database.rows(COUNT))
        self._count_took_s = self._clock.monotonic() - self._counted_at

    async def _refresh_positions(self) -> None:
        self._positions_at = self._clock.monotonic()
        pools = {pool for pool, _ in self._looked_at.values()}
        before = Counter(self._left)
        positions: dict[str, int] = {}
        if pools:
            params = {"pools": sorted(pools), "ids": [*self._looked_at]}
            rows: Sequence[tuple[str, int]] = [
                (id_, place) for id_, place in await self._database.rows(POSITIONS, params)
            ]
            positions = dict(rows)
        self._positions = positions
        self._positions_took_s = self._clock.monotonic() - self._positions_at
        self._left.subtract(before)

    def _retry_s(self, waiting: int) -> float:
        """A tenth of the time that the present queue takes: by then there is room for some."""
        return min(60.0, max(1.0, 0.1 * waiting / self._rate if self._rate > 0.1 else 5.0))
