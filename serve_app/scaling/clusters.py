"""Pools of the Ray clusters that work on one database, and a cluster's share in the demand.

Each cluster has its own Serve, which scales its own pools. A cluster shows that it has a pool by
leading ``demand/CLUSTER/POOL`` in the election, so the pool's clusters are the leaders of such
names. They divide what is queued evenly, and each counts what its own replicas run. The parts are
rounded up: a cluster that has no room for its part leaves it in the queue, where the replicas of
the others take it and grow by that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace

from serve_app.domain.lease import Demand
from serve_app.postgres.database import Database
from serve_app.postgres.leader_election import LeaderElection

PREFIX = "demand/"
CLUSTERS = """
-- name: count_clusters
SELECT name FROM leaders WHERE until > now() AND starts_with(name, %(prefix)s)
"""
FORGET = """
-- name: forget_clusters
DELETE FROM leaders WHERE until < now() - interval '1 day'
"""

RunningOn = Callable[[str], Awaitable[Mapping[str, int]]]


def share_of(demand: Demand, clusters: int, running: int) -> Demand:
    """Demand for one of ``clusters`` that have the pool. ``running``: on its own replicas."""
    queued, queued_s = _part(demand.queued, demand.queued_s, clusters)
    fit, fit_s = _part(demand.overflow_queued, demand.overflow_queued_s, clusters)
    return replace(
        demand,
        queued=queued,
        queued_s=queued_s,
        overflow_queued=fit,
        overflow_queued_s=fit_s,
        quarantined=math.ceil(demand.quarantined / clusters),
        running=running,
    )


def _part(requests: int, seconds: float, clusters: int) -> tuple[int, float]:
    part = math.ceil(requests / clusters)
    return part, seconds * part / requests if requests else 0.0


async def led_pools(database: Database) -> Collection[tuple[str, str]]:
    """Clusters, by their ids, and the pools that each has now."""
    rows = await database.rows(CLUSTERS, {"prefix": PREFIX})
    named = (str(row[0]).split("/", 2) for row in rows)
    return [(cluster, pool) for _, cluster, pool in named]


class ClusterShare:
    """Demand that this process writes for its cluster."""

    def __init__(
        self,
        database: Database,
        election: LeaderElection,
        cluster: str,
        running_on: RunningOn,
    ) -> None:
        """``cluster``: id of the Ray cluster. ``running_on``: requests by pool that run on a
        cluster's replicas."""
        self._database = database
        self._election = election
        self._cluster = cluster
        self._running_on = running_on
        self._tidy = False

    async def of(self, demands: Mapping[str, Demand], pools: Sequence[str]) -> Mapping[str, Demand]:
        """Demand of the pools that this process writes: those that it leads in its cluster."""
        await self._forget_ended_clusters()
        names = {pool: f"{PREFIX}{self._cluster}/{pool}" for pool in pools}
        led = await self._election.led_of(names.values())
        mine = {pool: demands.get(pool, Demand()) for pool in pools if names[pool] in led}
        if not mine:
            return mine
        clusters = await self._clusters()
        if all(clusters[pool] <= 1 for pool in mine):
            return mine
        running = await self._running_on(self._cluster)
        return {
            pool: share_of(demand, max(1, clusters[pool]), running.get(pool, 0))
            if clusters[pool] > 1
            else demand
            for pool, demand in mine.items()
        }

    async def _clusters(self) -> Counter[str]:
        """Clusters that have a pool, by pool."""
        return Counter(pool for _, pool in await led_pools(self._database))

    async def _forget_ended_clusters(self) -> None:
        """Delete what killed clusters left. A cluster that ends in good order leaves nothing."""
        if not self._tidy:
            await self._database.rows(FORGET)
            self._tidy = True
