"""Queue statistics: how much is queued, why and how long a request waits, and which replicas exist.

The counts are read once a second for all callers and adjusted by what this process does in between.
They are never read for a single call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from serve_app.domain.errors import DarkroomError, Overloaded, RequestNotFound, TooLarge
from serve_app.domain.lease import Demand, Presence, ReplicaStage
from serve_app.domain.ports import Clock
from serve_app.domain.request import (
    NewRequest,
    Request,
    RequestEstimate,
    State,
    Waiting,
    WaitReason,
)
from serve_app.domain.workflows.definition import POOL as WORKFLOWS
from serve_app.postgres.database import Database
from serve_app.queue.fairness.pauses import Pauses
from serve_app.queue.state.cold_start import ColdStage
from serve_app.queue.state.counters import Counters, Excluded, Throughput
from serve_app.queue.state.demand import DemandReader, halted
from serve_app.queue.state.duty_cycle import DutyCycle
from serve_app.queue.state.eta import EtaModel
from serve_app.queue.state.positions import Positions, QueuePosition
from serve_app.queue.state.request_cache import RequestCache
from serve_app.queue.state.waits import coalesced_waiting, waits_as_suspect, why_it_waits
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.database_clock import DatabaseClock

COUNT = """
-- name: count_queued
SELECT pool, tenant, endpoint, count(*) FROM requests WHERE state = 'queued' GROUP BY 1, 2, 3
"""
COUNT_LARGE = """
-- name: count_large_inputs
SELECT pool, tenant, endpoint, sum(pg_column_size(input))::bigint FROM requests
WHERE shown IS NOT NULL AND state IN ('queued', 'following')
GROUP BY tenant, pool, endpoint
"""
"""Bytes of large inputs as they are stored: reads their size, but not the inputs."""
COUNT_FOLLOWING = """
-- name: count_coalesced
SELECT pool, tenant, endpoint, count(*) FROM requests WHERE state = 'following' GROUP BY 1, 2, 3
"""
LIVE_REPLICAS = """
-- name: read_replicas
SELECT extract(epoch FROM at)::double precision, replica_id, actor_id, pool, stage, detail, loading,
       slots
FROM (SELECT now() AS at) clock LEFT JOIN live_replicas ON true
"""
"""Also the database's clock, with a row that has no replica if there is none."""
MIN_COUNT_INTERVAL_S = 0.1  # shortest interval between counts outside the periodic ones
COUNT_LIMIT_S = 120.0
"""Longest count. After a start with cold caches, a million queued requests take long on a slow
disk."""
COUNT_DUTY_FACTOR = 20  # a slow count runs less often: at most 1/20 of the time is spent counting
WRITTEN_WITHIN_S = 3.0
"""Time from a call of a replica to its row, which is written each second. Until then the replica is
known by the call alone."""


class QueueStats:
    """Counts of queued requests, limits on them, and the known replicas."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        limits: QueueLimits,
        positions: Positions,
        eta: EtaModel,
        pauses: Pauses,
        requests: RequestCache,
        demand: DemandReader,
    ) -> None:
        self._database = database
        self._clock = clock
        self._limits = limits
        self._positions = positions
        self._eta = eta
        self._pauses = pauses
        self._requests = requests
        self._demand = demand
        self._queued = Counters()
        self._admitted = Counters()  # admitted, not stored yet
        # Bytes of large inputs: stored and waiting; admitted, not stored yet
        self._waiting_bytes, self._admitted_bytes = Counters(), Counters()
        self._following = Counters()  # coalesced requests, which wait for another's outcome
        self._count_duty = DutyCycle(clock, COUNT_DUTY_FACTOR)
        self._counting = False
        self._present: dict[str, Presence] = {}
        self._called_at: dict[str, float] = {}  # by replica
        # by pool and endpoint, since a replica last changed
        self._explained: dict[tuple[str, str], Waiting] = {}
        self._throughput = Throughput()
        self._refreshed_at = clock.monotonic()
        self._healthy_since: float | None = None
        self._database_clock = DatabaseClock(clock)
        # Sentence for each pool of which no node can run a replica. Kept by the ingress process.
        self.unplaceable: Mapping[str, str] = {}
        # Pools of which a replica is started when requests wait. Kept by the ingress process.
        self.startable: frozenset[str] = frozenset()

    # Limits

    async def admit(
        self,
        pool: str,
        tenant: str,
        endpoint: str,
        most_queued: int | None = None,
        free: int = 0,
        *,
        large_bytes: Callable[[], int],
    ) -> None:
        """Count one request in before it is stored. ``large_bytes``: returns the size of its input
        if that is large, otherwise 0; called only after the limits on counts, because it encodes
        the input.

        Raises ``Overloaded`` past a limit, ``TooLarge`` if the input alone exceeds it, and
        ``EndpointDraining``. ``most_queued``: the caller's limit on queued requests in the pool,
        this one included. ``free``: slots that take requests which are being stored, so these do
        not count as queued.
        """

        def limit_error() -> Overloaded | None:
            return (
                self._exceeds_limits(tenant, endpoint)
                or self._exceeds_client_limit(pool, most_queued, free)
                or self._exceeds_bytes(tenant, large_bytes())
            )

        self._pauses.admit(endpoint)
        refused = limit_error()
        if refused is not None and self._count_duty.is_due(MIN_COUNT_INTERVAL_S):
            await self._read_counts()
            refused = limit_error()
        if refused is not None:
            raise refused
        self._admitted.change(pool, tenant, endpoint, 1)
        self._admitted_bytes.change(pool, tenant, endpoint, large_bytes())
        self._demand.note_request(pool)

    def undo_admit(self, pool: str, tenant: str, endpoint: str, large_bytes: int) -> None:
        """Undo ``admit`` for a request that was not stored."""
        self._admitted.change(pool, tenant, endpoint, -1)
        self._admitted_bytes.change(pool, tenant, endpoint, -large_bytes)

    def count_stored(self, request: Request, large_bytes: int) -> None:
        """Count a stored request. If it is queued, it goes behind all known requests of its
        tenant.
        """
        pool, tenant = request.pool, request.tenant
        self._admitted.change(pool, tenant, request.endpoint, -1)
        self._admitted_bytes.change(pool, tenant, request.endpoint, -large_bytes)
        if request.state is not State.QUEUED:
            self._throughput.count_removal(pool, tenant, request.endpoint)
            return
        # When it leaves the queue, its size is not known here: the next count takes it off.
        self._waiting_bytes.change(pool, tenant, request.endpoint, large_bytes)
        if request.follows is not None:
            self._following.change(pool, tenant, request.endpoint, 1)
            return
        self._queued.change(pool, tenant, request.endpoint, 1)
        self._positions.note_queued(request, *self._queued.before_the_last(pool, tenant))

    def count_removal(self, pool: str, tenant: str, endpoint: str) -> None:
        """Count a request that left the queue."""
        self._queued.change(pool, tenant, endpoint, -1)
        self._positions.count_removal(pool)
        self._throughput.count_removal(pool, tenant, endpoint)

    def count_uncoalesced(self, pool: str, tenant: str, endpoint: str) -> None:
        """Count a coalesced request that ended or is queued by itself."""
        self._following.change(pool, tenant, endpoint, -1)

    def count_requeue(self, pool: str, tenant: str, endpoint: str) -> None:
        """Count a request that is queued again."""
        self._queued.change(pool, tenant, endpoint, 1)

    def queued_count(self, pool: str) -> int:
        """Number of queued requests of the pool, without those that nothing starts."""
        return self._queued.in_pool(pool, but=halted(self._pauses, self._limits))

    def queued_and_lanes(self, pool: str, *, but: Collection[str]) -> tuple[int, int]:
        """Numbers of queued requests, without those of endpoints ``but``, and of all lanes."""
        queued = self._queued.in_pool(pool, but=Excluded(endpoints=but))
        return queued, self._queued.lanes_in(pool)

    @property
    def any_waits(self) -> bool:
        """True if any request is being stored, queued or coalesced."""
        return bool(self._queued.in_all or self._admitted.in_all or self._following.in_all)

    def lanes(self) -> Sequence[tuple[str, str]]:
        """Pools and tenants that had queued requests at the last count."""
        return self._queued.lanes()

    def _exceeds_limits(self, tenant: str, endpoint: str) -> Overloaded | None:
        queued, admitted, following = self._queued, self._admitted, self._following
        throughput = self._throughput
        waiting = queued.in_all + admitted.in_all + following.in_all
        if waiting >= self._limits.max_waiting:
            return Overloaded(
                f"{waiting} requests are waiting already.",
                throughput.retry_s(waiting),
                "queue_full",
            )
        own = queued.of_tenant(tenant) + admitted.of_tenant(tenant) + following.of_tenant(tenant)
        if own >= self._limits.waiting_of_tenant(tenant):
            retry_s = throughput.retry_s(own, tenant=tenant)
            message = f"{own} of your requests are waiting already."
            return Overloaded(message, retry_s, "tenant_limit")
        most = self._limits.waiting_of_endpoint(endpoint)
        if most is None:
            return None
        same = sum(counter.of_endpoint(endpoint) for counter in (queued, admitted, following))
        if same >= most:
            retry_s = throughput.retry_s(same, endpoint=endpoint)
            message = f"{same} requests are waiting for {endpoint} already."
            return Overloaded(message, retry_s, "endpoint_limit")
        return None

    def _exceeds_bytes(self, tenant: str, large_bytes: int) -> Overloaded | None:
        most = self._limits.waiting_bytes_of_tenant(tenant)
        waiting = self._waiting_bytes.of_tenant(tenant) + self._admitted_bytes.of_tenant(tenant)
        if not large_bytes or waiting + large_bytes <= most:
            return None
        if large_bytes > most:
            raise TooLarge(messages.too_large_to_wait(large_bytes, most))
        own = self._queued.of_tenant(tenant)
        return Overloaded(
            messages.too_many_waiting_bytes(large_bytes, waiting, most),
            self._throughput.retry_s(max(1, own), tenant=tenant),
            "tenant_bytes_limit",
        )

    def _exceeds_client_limit(
        self, pool: str, most_queued: int | None, free: int
    ) -> Overloaded | None:
        if most_queued is None:
            return None
        # What a tenant may not run at once does not wait for this pool.
        excluded, limit_of = halted(self._pauses, self._limits), self._limits.running_of_tenant
        stored = self.queued_count(pool) - self._queued.beyond(pool, limit_of, excluded)
        queued = stored + max(0, self._admitted.in_pool(pool) - free)
        if queued < most_queued:
            return None
        message = f"{queued} requests are waiting, and you allow {most_queued}."
        retry_s = self._throughput.until_gone_s(queued - most_queued + 1, pool)
        return Overloaded(message, retry_s, "client_limit")

    # Positions

    async def waiting(self, request: Request) -> Waiting:
        """Position, reason of the wait, and expected start and end of a queued request. A coalesced
        request waits for its leader.
        """
        if request.follows is None:
            return await self._waiting(request)
        try:
            leader = await self._requests.get(request.tenant, request.follows)
        except RequestNotFound:
            return coalesced_waiting(None, None, None)
        if leader.state is State.QUEUED and leader.follows is None:
            return coalesced_waiting(leader, await self._waiting(leader), None)
        return coalesced_waiting(leader, None, await self.ends_at(leader))

    async def estimate(self, new: NewRequest) -> RequestEstimate:
        """What ``new`` would wait for, and take, if it was submitted now."""
        self._queued.change(new.pool, new.tenant, new.endpoint, 1)
        ahead, own_ahead = self._queued.before_the_last(new.pool, new.tenant)
        self._queued.change(new.pool, new.tenant, new.endpoint, -1)
        request = new.as_queued(self._clock.now())
        place = self._positions.guess(new.pool, ahead, own_ahead)
        return RequestEstimate(self._waiting_at(request, place), self._eta.until_end_s(request))

    def usual_s(self, endpoint: str, pool: str) -> float | None:
        """Mean seconds of an endpoint's requests in a pool. None: none has ended."""
        return self._eta.usual_s(endpoint, pool)

    async def _waiting(self, request: Request) -> Waiting:
        pool, tenant = request.pool, request.tenant
        if request.state is not State.QUEUED:  # it was leased in its insert: nothing is ahead of it
            return self._waiting_at(request, self._positions.guess(pool, 0, 0))
        place = await self._positions.of(
            request, lambda: self._queued.before_the_last(pool, tenant)
        )
        return self._waiting_at(request, place)

    def _waiting_at(self, request: Request, place: QueuePosition) -> Waiting:
        pool, eta = request.pool, self._eta
        why = self._why(request)
        if why.reason is WaitReason.PAUSED:
            return replace(why, position=place.position)
        starts_s = eta.until_start_s(request, place)
        if why.reason is WaitReason.NO_REPLICA and pool in self.startable:
            share, starts_s = eta.until_replica(request, place)
            why = replace(why, stage=ColdStage.NODE.value, share=share)
        takes_s = eta.until_end_s(request)
        ends_s = None if starts_s is None or takes_s is None else starts_s + takes_s
        now = self._clock.now()
        return replace(
            why,
            position=place.position,
            starts_at=_after(now, starts_s),
            ends_at=_after(now, ends_s),
        )

    async def ends_at(self, request: Request) -> datetime | None:
        """Expected end of a running request; None if it cannot be estimated."""
        now = self._clock.now()
        elapsed_s = (now - (request.started_at or now)).total_seconds()
        return _after(now, self._eta.until_end_s(request, max(0.0, elapsed_s)))

    def _why(self, request: Request) -> Waiting:
        if request.endpoint in self._pauses.paused_endpoints():
            return Waiting(0, WaitReason.PAUSED)
        limited = self._eta.limit_reached(request)
        if limited:
            return Waiting(0, WaitReason.LIMIT, limited)
        if request.pool == WORKFLOWS:  # it needs no replica
            return Waiting(0, WaitReason.BUSY, "A workflow starts within a second.")
        key = request.pool, request.endpoint
        why = self._explained.get(key)
        if why is None:
            overflow = self._limits.overflow
            here = [
                presence
                for presence in self._present.values()
                if overflow.queue_of(presence.pool) == request.pool
            ]
            why = self._explained[key] = why_it_waits(request.endpoint, here)
        if why.reason is WaitReason.NO_REPLICA:
            return replace(why, detail=self.unplaceable.get(request.pool, ""))
        if why.stage == ReplicaStage.STARTING:
            return replace(why, share=self._eta.start_progress(request.pool))
        return waits_as_suspect(request, why)

    # Replicas

    def replica_seen(self, presence: Presence, slots: int = 1) -> None:
        """Note that a replica called this process. ``slots``: its total number of slots, present or
        planned.
        """
        self._called_at[presence.replica_id] = self._clock.monotonic()
        if self._present.get(presence.replica_id) != presence:
            self._replica_changed(presence)
        self._eta.replica_seen(presence, slots)

    def _replica_changed(self, presence: Presence) -> None:
        self._present[presence.replica_id] = presence
        self._explained.clear()

    def stage_of(self, replica_id: str) -> ReplicaStage | None:
        """Stage of a known replica, or None."""
        known = self._present.get(replica_id)
        return None if known is None else known.stage

    def ran_in(self, replica_id: str | None, queue: str) -> str:
        """Pool of a replica that runs requests of ``queue``: an overflow pool of it, or itself."""
        known = self._present.get(replica_id or "")
        here = known is not None and self._limits.overflow.queue_of(known.pool) == queue
        return known.pool if known is not None and here else queue

    def is_in_canary(self, replica_id: str) -> bool:
        """True if the replica is known to be one of a canary."""
        known = self._present.get(replica_id)
        return known is not None and known.pool in self._limits.overflow.canaries

    def stages(self) -> Mapping[tuple[str, str], int]:
        """Number of known replicas by pool and stage."""
        return Counter((presence.pool, presence.stage.value) for presence in self._present.values())

    def remove_dead(self, dead_actors: frozenset[str]) -> None:
        """Forget the replicas of dead actors."""
        self._present = {
            id_: presence
            for id_, presence in self._present.items()
            if presence.actor_id not in dead_actors
        }
        self._explained.clear()

    def actors(self) -> frozenset[str]:
        """Actor ids of the known replicas."""
        return frozenset(presence.actor_id for presence in self._present.values())

    # Once a second

    @property
    def healthy_s(self) -> float:
        """Seconds since which this process runs, the database answers each refresh, and its clock
        has not jumped. After a jump, rows are older than they look, or less old."""
        since = self._healthy_since
        return 0.0 if since is None else self._clock.monotonic() - since

    @property
    def _unnoticed_s(self) -> float:
        """Longest stop of this process, or jump of the database's clock, that leases outlast."""
        return max(5.0, self._limits.lease_s / 2)

    async def refresh(self) -> None:
        """Read the replicas and the pauses again."""
        now = self._clock.monotonic()
        elapsed_s, self._refreshed_at = now - self._refreshed_at, now
        if elapsed_s > self._unnoticed_s:  # this process stood still
            self._healthy_since = None
        try:
            await self._pauses.refresh()
            self._throughput.tick(elapsed_s)
            await self.refresh_replicas()
            await self._positions.refresh()
        except DarkroomError:
            self._healthy_since = None
            raise
        if self._healthy_since is None:
            self._healthy_since = self._clock.monotonic()

    async def refresh_starts(self, requests: Iterable[Request]) -> None:
        """Read again what the estimated starts of these requests depend on."""
        await self.refresh_replicas()  # first: what starts in between counts nowhere, not twice
        await self._positions.read_at_once(requests)

    async def refresh_replicas(self) -> None:
        """Read the replicas, and look whether the database's clock has jumped."""
        before, asked_at = dict(self._present), self._clock.monotonic()
        rows = await self._database.rows(LIVE_REPLICAS)
        database_at, *_ = rows[0]
        if not self._database_clock.is_steady(database_at, asked_at, self._unnoticed_s):
            self._healthy_since = None
        present = [
            (Presence(id_, actor, pool, ReplicaStage(stage), detail, tuple(loading)), slots)
            for _, id_, actor, pool, stage, detail, loading, slots in rows
            if id_ is not None
        ]
        # What was noted while the statement ran is newer than its rows, and what called shortly
        # before may have none yet.
        newer = {
            id_: replica for id_, replica in self._present.items() if before.get(id_) is not replica
        }
        since = self._clock.monotonic() - WRITTEN_WITHIN_S
        self._called_at = {id_: at for id_, at in self._called_at.items() if at > since}
        unwritten = {
            id_: replica for id_, replica in self._present.items() if id_ in self._called_at
        }
        stored = {presence.replica_id: presence for presence, _ in present}
        self._present = unwritten | stored | newer
        self._explained.clear()
        await self._eta.refresh(present)

    async def demand(self) -> Mapping[str, Demand]:
        """Demand by pool, for autoscaling."""
        return await self._demand.read(self._queued)

    async def count(self) -> None:
        """Read the counts again if that is due. It may take ``COUNT_LIMIT_S``."""
        if self._count_duty.is_due():
            await self._read_counts()

    async def _read_counts(self) -> None:
        """Read the counts, unless that is under way."""
        if self._counting:
            return
        self._counting = True
        try:
            with self._count_duty.run():
                for counters, sql in (
                    (self._queued, COUNT),
                    (self._following, COUNT_FOLLOWING),
                    (self._waiting_bytes, COUNT_LARGE),
                ):
                    counters.begin_snapshot()
                    counters.snapshot(await self._database.rows(sql, limit_s=COUNT_LIMIT_S))
        finally:
            self._counting = False


def _after(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)
