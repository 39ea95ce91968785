"""How much is queued, why and how long a request waits, and which replicas exist.

Counted once a second for everybody, and adjusted by what this process does in between; never
counted for one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from serve_app.domain.errors import Overloaded
from serve_app.domain.lease import Demand, Presence, ReplicaStage
from serve_app.domain.ports import Clock
from serve_app.domain.request import Priority, Request, State, Waiting, WaitReason
from serve_app.queue.database import Database
from serve_app.queue.forecast import Forecast
from serve_app.queue.halts import Halts
from serve_app.queue.limits import QueueLimits
from serve_app.queue.pace import Pace
from serve_app.queue.positions import Positions
from serve_app.queue.tally import Tally
from serve_app.queue.why import Why, why_it_waits

COUNT = """
SELECT pool, tenant, endpoint, count(*) FROM requests WHERE state = 'queued' GROUP BY 1, 2, 3
"""
COUNT_FOLLOWING = """
SELECT pool, tenant, endpoint, count(*) FROM requests WHERE state = 'following' GROUP BY 1, 2, 3
"""
PRESENT = """
SELECT replica_id, actor_id, pool, stage, detail, loading, slots FROM replicas
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
EASE = 20  # a count that takes long is made less often: at most a twentieth of the time
STARTING_S = 900.0  # imports may block one that starts; its death is noticed by its actor
READY_S = 15.0  # an ask lasts a few seconds


class Census:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        limits: QueueLimits,
        positions: Positions,
        forecast: Forecast,
        halts: Halts,
    ) -> None:
        self._database = database
        self._clock = clock
        self._limits = limits
        self._positions = positions
        self._forecast = forecast
        self._halts = halts
        self._queued = Tally()
        self._coming = Tally()  # admitted, and not yet stored
        self._following = Tally()  # for the outcomes of others
        self._counted_at = float("-inf")
        self._count_took_s = 0.0
        self._present: dict[str, Presence] = {}
        self._pace = Pace()
        self._busy_at: dict[str, float] = {}
        self._started = clock.monotonic()

    # Caps

    async def admit(
        self,
        pool: str,
        tenant: str,
        endpoint: str,
        most_queued: int | None = None,
        free: int = 0,
    ) -> None:
        """Count one in. ``Overloaded`` past the caps, ``EndpointDraining``. ``most_queued``: that
        may be queued in the pool with it; of what is being stored, ``free`` find a slot."""

        def past() -> Overloaded | None:
            return self._past_caps(tenant, endpoint) or self._past_wish(pool, most_queued, free)

        self._halts.admit(endpoint)
        refused = past()
        ago_s = self._clock.monotonic() - self._counted_at
        if refused is not None and ago_s > max(RECOUNT_S, EASE * self._count_took_s):
            await self._count()
            refused = past()
        if refused is not None:
            raise refused
        self._coming.change(pool, tenant, endpoint, 1)
        self._busy_at[pool] = self._clock.monotonic()

    def refused(self, pool: str, tenant: str, endpoint: str) -> None:
        """One that was admitted was not stored."""
        self._coming.change(pool, tenant, endpoint, -1)

    def entered(self, request: Request) -> None:
        """It was stored; if queued, then behind all of its tenant's that are known to be."""
        pool, tenant = request.pool, request.tenant
        self._coming.change(pool, tenant, request.endpoint, -1)
        if request.state is not State.QUEUED:
            self._pace.left(pool, tenant, request.endpoint)
            return
        if request.follows is not None:
            self._following.change(pool, tenant, request.endpoint, 1)
            return
        self._queued.change(pool, tenant, request.endpoint, 1)
        self._positions.entered(request, *self._queued.before_the_last(pool, tenant))

    def left(self, pool: str, tenant: str, endpoint: str) -> None:
        """One left the queue."""
        self._queued.change(pool, tenant, endpoint, -1)
        self._positions.left(pool)
        self._pace.left(pool, tenant, endpoint)

    def follows_no_more(self, pool: str, tenant: str, endpoint: str) -> None:
        """One that waited for the outcome of another ended, or is queued by itself."""
        self._following.change(pool, tenant, endpoint, -1)

    def entered_again(self, pool: str, tenant: str, endpoint: str) -> None:
        self._queued.change(pool, tenant, endpoint, 1)

    def lanes(self) -> Sequence[tuple[str, str]]:
        """Pools and tenants with something queued, when they were counted last."""
        return self._queued.lanes()

    def _past_caps(self, tenant: str, endpoint: str) -> Overloaded | None:
        queued, coming, following = self._queued, self._coming, self._following
        pace = self._pace
        waiting = queued.in_all + coming.in_all + following.in_all
        if waiting >= self._limits.max_waiting:
            return Overloaded(f"{waiting} requests are waiting already.", pace.retry_s(waiting))
        own = queued.of_tenant(tenant) + coming.of_tenant(tenant) + following.of_tenant(tenant)
        if own >= self._limits.waiting_of_tenant(tenant):
            retry_s = pace.retry_s(own, tenant=tenant)
            return Overloaded(f"{own} of your requests are waiting already.", retry_s)
        most = self._limits.waiting_of_endpoint(endpoint)
        if most is None:
            return None
        same = sum(each.of_endpoint(endpoint) for each in (queued, coming, following))
        if same >= most:
            retry_s = pace.retry_s(same, endpoint=endpoint)
            return Overloaded(f"{same} requests are waiting for {endpoint} already.", retry_s)
        return None

    def _past_wish(self, pool: str, most_queued: int | None, free: int) -> Overloaded | None:
        if most_queued is None:
            return None
        stored = self._queued.in_pool(pool, but=self._halts.paused())
        queued = stored + max(0, self._coming.in_pool(pool) - free)
        if queued < most_queued:
            return None
        message = f"{queued} requests are waiting, and you allow {most_queued}."
        return Overloaded(message, self._pace.until_gone_s(queued - most_queued + 1, pool))

    # Places

    async def waiting(self, request: Request) -> Waiting:
        pool, tenant, forecast = request.pool, request.tenant, self._forecast
        place = await self._positions.of(
            request, lambda: self._queued.before_the_last(pool, tenant)
        )
        why = self._why(request)
        if why.reason is WaitReason.PAUSED:
            return Waiting(place.position, why.reason)
        starts_s = forecast.until_start_s(request, place)
        takes_s = forecast.until_end_s(request)
        ends_s = None if starts_s is None or takes_s is None else starts_s + takes_s
        now = self._clock.now()
        return Waiting(
            position=place.position,
            reason=why.reason,
            detail=why.detail,
            stage=why.stage,
            share=why.share,
            starts_at=_after(now, starts_s),
            ends_at=_after(now, ends_s),
        )

    def ends_at(self, request: Request) -> datetime | None:
        """Of one that runs."""
        now = self._clock.now()
        elapsed_s = (now - (request.started_at or now)).total_seconds()
        return _after(now, self._forecast.until_end_s(request, max(0.0, elapsed_s)))

    def _why(self, request: Request) -> Why:
        if request.endpoint in self._halts.paused():
            return Why(WaitReason.PAUSED)
        limited = self._forecast.full(request)
        if limited:
            return Why(WaitReason.LIMIT, limited)
        here = [each for each in self._present.values() if each.pool == request.pool]
        why = why_it_waits(request.endpoint, here)
        if why.stage == ReplicaStage.STARTING:
            return replace(why, share=self._forecast.starting_share(request.pool))
        return why

    # Replicas

    def present(self, presence: Presence, slots: int = 1) -> None:
        """A replica spoke to this process. ``slots``: that it has in all, or will have."""
        self._present[presence.replica_id] = presence
        self._forecast.present(presence, slots)

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
        await self._halts.refresh()
        await self._refresh_counts(elapsed_s)
        rows = await self._database.rows(PRESENT, {"starting_s": STARTING_S, "ready_s": READY_S})
        present = [
            (
                Presence(id_, actor, pool, ReplicaStage(stage), detail, tuple(loading)),
                slots,
            )
            for id_, actor, pool, stage, detail, loading, slots in rows
        ]
        self._present = {presence.replica_id: presence for presence, _ in present}
        await self._forecast.refresh(present)
        await self._positions.refresh()

    async def demand(self) -> Mapping[str, Demand]:
        now = self._clock.monotonic()
        queued = self._queued.pools(but=self._halts.paused())
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
        self._pace.tick(elapsed_s)

    async def _count(self) -> None:
        self._counted_at = self._clock.monotonic()
        self._queued.snapshot_begins()
        self._queued.snapshot(await self._database.rows(COUNT))
        self._following.snapshot_begins()
        self._following.snapshot(await self._database.rows(COUNT_FOLLOWING))
        self._count_took_s = self._clock.monotonic() - self._counted_at


def _after(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)
