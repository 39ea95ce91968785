"""Division of the demand among several Ray clusters with one database."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.lease import Demand
from serve_app.postgres.database import Database
from serve_app.postgres.leader_election import LeaderElection
from serve_app.scaling.clusters import ClusterShare, led_pools, share_of
from serve_app.scaling.policy import Bounds, Load, needed_replicas
from serve_app.telemetry.clock import SystemClock
from tests.queue.database import Ingress, conninfo, database, ingress, liveness, server, terms
from tests.queue.requests import ask, new

__all__ = ["conninfo", "database", "ingress", "liveness", "server", "terms"]

DEMAND = Demand(queued=5, running=3, slots=1, queued_s=50.0)


def process(
    database: Database, cluster: str, name: str = "first", running: int = 0
) -> ClusterShare:
    """An ingress process of a cluster whose replicas run so many requests of the pool `p`."""

    async def running_on(of: str) -> dict[str, int]:
        assert of == cluster
        return {"p": running}

    election = LeaderElection(database, SystemClock(), f"{cluster}-{name}")
    return ClusterShare(database, election, cluster, running_on)


async def test_a_cluster_alone_scales_for_all_of_the_demand(database: Database) -> None:
    share = process(database, "a")
    assert await share.of({"p": DEMAND}, ["p", "q"]) == {"p": DEMAND, "q": Demand()}


async def test_one_process_of_a_cluster_writes_its_demand(database: Database) -> None:
    first, second = process(database, "a"), process(database, "a", "second")
    assert await first.of({"p": DEMAND}, ["p"]) == {"p": DEMAND}
    assert await second.of({"p": DEMAND}, ["p"]) == {}


async def test_two_clusters_divide_what_is_queued_and_count_what_they_run(
    database: Database,
) -> None:
    a, b = process(database, "a", running=1), process(database, "b", running=2)
    await a.of({"p": DEMAND}, ["p"])
    assert await b.of({"p": DEMAND}, ["p"]) == {"p": Demand(3, 2, 1, queued_s=30.0)}
    assert await a.of({"p": DEMAND}, ["p"]) == {"p": Demand(3, 1, 1, queued_s=30.0)}


async def test_a_pool_that_only_one_cluster_has_is_not_divided(database: Database) -> None:
    a, b = process(database, "a"), process(database, "b")
    await a.of({"p": DEMAND}, ["p"])
    assert await b.of({"q": DEMAND}, ["q"]) == {"q": DEMAND}
    assert await a.of({"p": DEMAND}, ["p"]) == {"p": DEMAND}


async def test_a_cluster_that_is_gone_no_longer_counts(database: Database) -> None:
    a, b = process(database, "a"), process(database, "b", running=3)
    await a.of({"p": DEMAND}, ["p"])
    await database.rows("UPDATE leaders SET until = now() - interval '1 second'")
    assert await b.of({"p": DEMAND}, ["p"]) == {"p": DEMAND}


async def test_the_pools_of_each_cluster_are_known_until_it_is_gone(database: Database) -> None:
    await process(database, "a").of({}, ["p", "with/slash"])
    await process(database, "b").of({}, ["p"])
    assert sorted(await led_pools(database)) == [("a", "p"), ("a", "with/slash"), ("b", "p")]
    await database.rows("UPDATE leaders SET until = now() - interval '1 second'")
    assert await led_pools(database) == []


async def test_what_clusters_left_is_forgotten_after_a_day(database: Database) -> None:
    await database.rows(
        "INSERT INTO leaders (name, holder, until) VALUES "
        "('pools/old', 'x', now() - interval '2 days'), ('pools/b', 'y', now() + interval '1 day')"
    )
    await process(database, "a").of({}, ["p"])
    names = [name for (name,) in await database.rows("SELECT name FROM leaders ORDER BY 1")]
    assert names == ["demand/a/p", "pools/b"]


async def test_requests_are_counted_by_the_cluster_that_runs_them(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    for _ in range(3):
        await queue.submit(new())
    work = await asyncio.gather(*(queue.ask(ask(1, replica=name)) for name in ("r-1", "r-2")))
    assert [len(reply.leases) for reply in work] == [1, 1]
    for cluster, replica in (("here", "r-1"), ("there", "r-2"), ("there", "r-3")):
        await database.rows(
            "INSERT INTO processes (actor_id, kind, name, cluster) "
            "VALUES (%(actor)s, 'replica', %(name)s, %(cluster)s)",
            {"actor": ask(1, replica=replica).actor_id, "name": replica, "cluster": cluster},
        )
    assert await queue.running_on("here") == {new().pool: 1}
    assert await queue.running_on("elsewhere") == {}


@given(requests=st.integers(1, 60), rooms=st.lists(st.integers(0, 40), min_size=2, max_size=4))
def test_clusters_grow_until_all_runs_or_none_has_room(requests: int, rooms: list[int]) -> None:
    """Also where a cluster has no room for its part. ``rooms``: replicas that each can have."""
    running = [0] * len(rooms)
    for _ in range(100):
        queued = requests - sum(running)
        for cluster, room in enumerate(rooms):
            demand = Demand(queued, sum(running), 1, queued_s=queued * 60.0)
            share = share_of(demand, len(rooms), running[cluster])
            bounds = Bounds(1, least=0, most=room, spare=0, keep_alive_s=60, target_wait_s=0)
            load = Load(share.queued, share.running, share.queued_s, idle_s=0)
            replicas = needed_replicas(bounds, load)
            free = max(0, replicas - running[cluster])
            running[cluster] += min(free, requests - sum(running))
    assert sum(running) == min(requests, sum(rooms))
