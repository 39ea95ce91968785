"""Starts and ends of processes, as an operator sees them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from serve_app.domain.lease import Death, Presence, ReplicaStage
from serve_app.postgres.database import Database
from serve_app.queue.processes import IngressProcess, ProcessLog
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.state.terms import Terms
from tests.captured_logs import CapturedLogs
from tests.fakes.clock import FakeClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES

Announce = Callable[..., Awaitable[None]]
INGRESS = IngressProcess("i1", "ingress-1", "10.0.0.1", "0.1.0")


class Cluster:
    """A Ray cluster whose actors a test starts and ends, and the log of its processes."""

    def __init__(self, database: Database, id_: str = "one") -> None:
        self.liveness = FakeLiveness()
        self.alive: set[str] = set()
        self.log = ProcessLog(database, self.liveness, lambda: frozenset(self.alive), id_)

    async def start(self, ingress: IngressProcess) -> None:
        await self.log.record_start(ingress)
        self.alive.add(ingress.actor_id)

    async def events(self) -> list[tuple[str, str, str]]:
        """Name, event and reason, newest first."""
        return [
            (str(event["name"]), str(event["event"]), str(event["reason"]))
            for event in await self.log.events()
        ]


@pytest.fixture
def cluster(database: Database) -> Cluster:
    return Cluster(database)


@pytest.fixture
def announce(database: Database, cluster: Cluster) -> Announce:
    registry = queue_on(database).parts.state.replicas

    async def call(name: str, stage: ReplicaStage = ReplicaStage.STARTING) -> None:
        cluster.alive.add(f"actor-{name}")
        await registry.announce(
            Presence(name, f"actor-{name}", "studio", stage, node="10.0.0.2", slots=1)
        )

    return call


def queue_on(database: Database) -> PostgresQueue:
    return assemble(database, FakeClock(), FakeTerms(), LONG_LEASES, FakeLiveness(), "one")


async def test_a_replica_s_start_and_the_reason_of_its_end_are_shown_and_logged_once(
    cluster: Cluster,
    announce: Announce,
    database: Database,
    caplog: CapturedLogs,
) -> None:
    caplog.set_level(logging.INFO)
    await announce("r1")
    await cluster.log.look()
    await cluster.log.look()
    assert await cluster.events() == [("r1", "started", "")]
    await Terms(database).end({"actor-r1": Death("its node failed", by_itself=False)})
    await cluster.log.look()
    await cluster.log.look()
    assert await cluster.events() == [("r1", "ended", "its node failed"), ("r1", "started", "")]
    (event, _) = await cluster.log.events()
    assert (event["kind"], event["pool"], event["node"]) == ("replica", "studio", "10.0.0.2")
    messages = [record.getMessage() for record in caplog.records if "r1" in record.getMessage()]
    assert messages == [
        "The replica r1 of the pool studio has started on 10.0.0.2.",
        "The replica r1 of the pool studio on 10.0.0.2 has ended: its node failed.",
    ]


async def test_the_end_of_a_replica_that_drained_says_so(
    cluster: Cluster, announce: Announce
) -> None:
    await announce("r1")
    await cluster.log.look()
    await announce("r1", ReplicaStage.DRAINING)
    await cluster.log.look()
    cluster.alive.clear()
    cluster.liveness.cut_off = {"actor-r1"}
    await cluster.log.look()
    assert (await cluster.events())[0] == (
        "r1", "ended", "its node failed, after its drain had begun",
    )  # fmt: skip


async def test_an_ingress_says_why_it_started(cluster: Cluster) -> None:
    await cluster.start(INGRESS)
    await cluster.start(replace(INGRESS, actor_id="i2", name="ingress-2"))
    cluster.alive.discard("i1")
    cluster.liveness.buried = {"i1"}
    await cluster.start(replace(INGRESS, actor_id="i3", name="ingress-3"))
    await cluster.start(replace(INGRESS, actor_id="i4", name="ingress-4", version="0.2.0"))
    await cluster.log.record_stop(replace(INGRESS, actor_id="i2"))
    assert await cluster.events() == [
        ("ingress-2", "ended", "it was stopped or replaced"),
        ("ingress-4", "started", "version 0.2.0 in place of 0.1.0"),
        ("ingress-3", "started", "ingress-1 had ended: its process ended"),
        ("ingress-1", "ended", "its process ended"),
        ("ingress-2", "started", "beside ingress-1"),
        ("ingress-1", "started", "the first one here"),
    ]


async def test_what_ran_before_the_whole_installation_was_stopped_has_ended(
    cluster: Cluster,
) -> None:
    await cluster.start(INGRESS)
    cluster.alive.clear()
    cluster.liveness.stopped = {"i1"}
    await cluster.start(replace(INGRESS, actor_id="i2", name="ingress-2"))
    assert (await cluster.events())[0] == (
        "ingress-2", "started", "ingress-1 had ended: Darkroom was stopped",
    )  # fmt: skip


async def test_a_cluster_does_not_end_the_processes_of_another_on_the_same_database(
    cluster: Cluster, database: Database, announce: Announce
) -> None:
    await announce("r1")
    await cluster.start(INGRESS)
    other = Cluster(database, "two")
    other.liveness.buried = {"i1", "actor-r1"}
    await other.start(replace(INGRESS, actor_id="i9", name="ingress-9"))
    assert await cluster.events() == [
        ("ingress-9", "started", "the first one here"),
        ("ingress-1", "started", "the first one here"),
        ("r1", "started", ""),
    ]


async def test_what_ended_is_forgotten_and_what_lives_is_not(
    cluster: Cluster, database: Database
) -> None:
    await cluster.start(INGRESS)
    await cluster.start(replace(INGRESS, actor_id="i2", name="ingress-2"))
    await cluster.log.record_stop(INGRESS)
    await database.rows("UPDATE processes SET seen_at = now() - interval '2 days'")
    await cluster.log.look()
    await database.rows("UPDATE processes SET seen_at = seen_at - interval '6 days'")
    await cluster.log.look()
    assert [name for name, _, _ in await cluster.events()] == ["ingress-2"]
