"""Quarantines of nodes and ends of terms, by what was lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.errors import DatabaseUnavailable, ReplicaDied
from serve_app.domain.lease import Lease, Presence, ReplicaStage, Work
from serve_app.domain.request import State
from serve_app.postgres.database import Database
from serve_app.queue import reaper
from serve_app.queue.processes import ProcessLog
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.state.quarantines import (
    AT_ONCE_S,
    GIVEN_UP,
    LOSSES,
    TOLERATED,
    Loss,
    times_lost,
)
from serve_app.queue.state.replicas import roster
from serve_app.queue.transactions.end_attempt import EndAttempts
from tests.captured_logs import CapturedLogs
from tests.contract.waiting import eventually
from tests.fakes.liveness import FakeLiveness
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import (
    LEASED_WITHIN_S,
    POOL,
    TENANT,
    ask,
    failure,
    make_finish,
    new,
    report,
)


def node(loss: Loss) -> str:
    return loss.node


def losses(*times: float, of: str = "one") -> Sequence[Loss]:
    return [Loss(of, f"actor-{at}", f"request-{at}", at) for at in times]


def test_what_a_node_loses_at_once_is_one_loss() -> None:
    assert times_lost(losses(0, 1, 2, AT_ONCE_S), node) == {"one": 1}
    assert times_lost(losses(0, 1, 20, 21, 50), node) == {"one": 3}


def test_a_request_that_two_nodes_lose_accuses_itself() -> None:
    own = losses(0, 20, 40)
    assert times_lost([*own, own[1]._replace(node="two", at=60)], node) == {"one": 2}


def test_a_request_accuses_the_only_node_that_loses_it_once() -> None:
    assert times_lost([loss._replace(request_id="r") for loss in losses(0, 20, 40)], node) == {
        "one": 1
    }


LOSS = st.builds(
    Loss,
    st.sampled_from("ab"),
    st.sampled_from("xy"),
    st.sampled_from("pqrst"),
    st.floats(0, 100),
)


@given(st.lists(LOSS))
def test_no_node_is_said_to_lose_more_than_its_losses_or_its_requests(
    all_losses: list[Loss],
) -> None:
    for name, times in times_lost(all_losses, node).items():
        own = [loss for loss in all_losses if loss.node == name]
        assert times <= min(len(own), len({loss.request_id for loss in own}))


def presence(replica: str, node: str) -> Presence:
    return Presence(replica, f"actor-{replica}", POOL, ReplicaStage.READY, slots=1, node=node)


async def ready(queue: PostgresQueue, replica: str, node: str) -> None:
    await queue.announce(presence(replica, node))


@asynccontextmanager
async def kept_ready(queue: PostgresQueue, replica: str, node: str) -> AsyncIterator[None]:
    """The replica announces itself again and again, as real ones do, while others are slow."""

    async def announce() -> None:
        while True:
            await ready(queue, replica, node)
            await asyncio.sleep(1.0)

    announcing = asyncio.create_task(announce())
    try:
        yield
    finally:
        announcing.cancel()


async def ask_for_leases(
    queue: PostgresQueue, replica: str, node: str, slots: int = 1
) -> Sequence[Lease]:
    return (await queue.ask(ask(slots, replica=replica, node=node))).leases


async def take_leases(
    queue: PostgresQueue, replica: str, node: str, slots: int = 1
) -> Sequence[Lease]:
    """Confirmed leases of a replica, which asks until it gets some."""
    async with asyncio.timeout(LEASED_WITHIN_S):
        while not (leases := await ask_for_leases(queue, replica, node, slots)):
            pass
    await queue.report(report(*(granted.key for granted in leases), replica=replica))
    return leases


async def lose(
    queue: PostgresQueue, liveness: FakeLiveness, database: Database, *replicas: str, node: str
) -> None:
    """One after the other the replicas lose a request, a minute apart."""
    for replica in replicas:
        await database.rows("UPDATE attempts SET ended_at = ended_at - interval '1 min'")
        await ready(queue, replica, node)
        id_ = (await queue.submit(new())).id
        await take_leases(queue, replica, node)
        liveness.cut_off.add(f"actor-{replica}")
        while (await queue.get(TENANT, id_)).state is State.RUNNING:
            await queue.wait_for_change(TENANT, id_, 0.1)
        await queue.cancel(TENANT, id_)


async def in_quarantine(database: Database) -> list[tuple[str, int]]:
    rows = await database.rows("SELECT node, losses FROM quarantines WHERE released_at IS NULL")
    return [(node, losses) for node, losses in rows]


async def age_quarantines(queue: PostgresQueue, database: Database) -> None:
    """Let the node's rest be over, while ``two`` is known to have a ready replica. Without one the
    quarantined node would get all."""
    quarantines = queue.parts.state.quarantines
    await database.rows("UPDATE quarantines SET last_loss_at = now() - interval '30 min'")

    async def is_spared() -> bool:
        await ready(queue, "good", "two")
        await quarantines.refresh()
        return POOL in quarantines._known["one"].spared

    await eventually(is_spared)


@pytest.fixture
async def quarantined_queue(
    ingress: Ingress, database: Database, liveness: FakeLiveness
) -> PostgresQueue:
    """A queue whose node ``one`` is in quarantine, while ``two`` has the ready replica ``good``."""
    queue = await ingress(LONG_LEASES)
    await ready(queue, "good", "two")
    await lose(queue, liveness, database, "r1", "r2", "r3", node="one")
    await until_quarantined(queue, database, ("one", TOLERATED + 1))
    return queue


async def until_quarantined(
    queue: PostgresQueue, database: Database, *expected: tuple[str, int]
) -> None:
    async def known() -> bool:
        return await in_quarantine(database) == [*expected]

    await eventually(known)
    await queue.parts.state.quarantines.refresh()


async def until_known(queue: PostgresQueue, replica: str) -> None:
    """Until the queue has read that the replica is on a quarantined node."""

    async def is_known() -> bool:
        return queue.parts.state.quarantines.node_of(replica) == "one"

    await eventually(is_known)


async def test_requests_run_elsewhere_until_the_quarantined_node_has_rested(
    quarantined_queue: PostgresQueue,
) -> None:
    id_ = (await quarantined_queue.submit(new())).id
    await ready(quarantined_queue, "r4", "one")
    assert await ask_for_leases(quarantined_queue, "r4", "one") == ()
    await ready(quarantined_queue, "good", "two")
    (granted,) = await take_leases(quarantined_queue, "good", "two")
    assert granted.request_id == id_


@pytest.mark.long
async def test_a_request_succeeds_also_if_the_quarantine_cannot_be_ended_then(
    quarantined_queue: PostgresQueue,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: CapturedLogs,
) -> None:
    async def refuse(*_: object) -> None:
        raise DatabaseUnavailable("PostgreSQL does not answer.")

    quarantines = quarantined_queue.parts.state.quarantines
    await age_quarantines(quarantined_queue, database)
    id_ = (await quarantined_queue.submit(new())).id
    (tried,) = await take_leases(quarantined_queue, "r4", "one")
    await until_known(quarantined_queue, "r4")
    monkeypatch.setattr(quarantines, "release", refuse)
    await quarantined_queue.finish(make_finish(tried.key, replica="r4"))
    assert (await quarantined_queue.get(TENANT, id_)).state is State.SUCCEEDED
    await quarantined_queue.parts.state.background.aclose()
    assert "Node one stays quarantined: PostgreSQL does not answer." in caplog.text


async def test_scaling_counts_a_quarantined_replica_only_if_there_is_no_other(
    quarantined_queue: PostgresQueue, database: Database
) -> None:
    async def counted(replicas: int) -> None:
        async def are() -> bool:
            return (await quarantined_queue.demand())[POOL].quarantined == replicas

        await eventually(are)

    await ready(quarantined_queue, "good", "two")
    await ready(quarantined_queue, "r4", "one")
    await counted(1)
    await database.rows("DELETE FROM replicas WHERE node = 'two'")
    await counted(0)


async def test_then_one_request_at_a_time_tries_it_and_a_success_ends_the_quarantine(
    quarantined_queue: PostgresQueue, database: Database
) -> None:
    for _ in range(3):
        await quarantined_queue.submit(new())
    async with kept_ready(quarantined_queue, "good", "two"):
        await age_quarantines(quarantined_queue, database)
        (tried,) = await take_leases(quarantined_queue, "r4", "one", 3)
        again = await quarantined_queue.ask(ask(2, tried.key, replica="r4", node="one"))
        assert again.leases == ()
    await until_known(quarantined_queue, "r4")
    await quarantined_queue.finish(make_finish(tried.key, replica="r4"))
    await until_quarantined(quarantined_queue, database)
    assert len(await take_leases(quarantined_queue, "r4", "one", 2)) == 2
    # An operator sees both among what started and ended.
    seen = await ProcessLog(database, FakeLiveness(), frozenset, "one").events()
    assert [(event["event"], event["reason"]) for event in seen if event["kind"] == "node"] == [
        ("released", ""),
        ("quarantined", "it lost requests 3 times"),
    ]


async def test_losses_that_were_read_before_its_release_do_not_quarantine_a_node_again(
    quarantined_queue: PostgresQueue, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    quarantines = quarantined_queue.parts.state.quarantines
    rows = quarantines._database.rows

    async def released_after(statement: str, *arguments: Any, **more: Any) -> Any:
        result = await rows(statement, *arguments, **more)
        if statement == LOSSES:
            await quarantines.release("one", held_s=0.0)
        return result

    monkeypatch.setattr(quarantines._database, "rows", released_after)
    await quarantines.judge()
    assert await in_quarantine(database) == []


@pytest.mark.long
async def test_a_success_of_what_ran_there_before_ends_nothing(
    quarantined_queue: PostgresQueue, database: Database
) -> None:
    await quarantined_queue.parts.state.quarantines.release("one", held_s=60.0)
    assert await in_quarantine(database)


@pytest.mark.long
async def test_each_request_that_it_loses_makes_the_next_rest_longer(
    quarantined_queue: PostgresQueue, database: Database, liveness: FakeLiveness
) -> None:
    await age_quarantines(quarantined_queue, database)
    await lose(quarantined_queue, liveness, database, "r4", node="one")
    await until_quarantined(quarantined_queue, database, ("one", TOLERATED + 2))


@pytest.mark.long
async def test_a_request_that_it_loses_begins_the_next_rest_also_when_an_old_loss_counts_no_more(
    quarantined_queue: PostgresQueue, database: Database, liveness: FakeLiveness
) -> None:
    await age_quarantines(quarantined_queue, database)
    await database.rows(
        "UPDATE attempts SET ended_at = now() - interval '1 hour' WHERE replica_id = 'r1'"
    )
    await lose(quarantined_queue, liveness, database, "r4", node="one")
    await quarantined_queue.parts.state.quarantines.judge()
    await until_quarantined(quarantined_queue, database, ("one", TOLERATED + 1))
    await quarantined_queue.submit(new())
    assert await ask_for_leases(quarantined_queue, "r5", "one") == ()


@pytest.mark.long
async def test_a_node_without_which_its_pool_has_none_gets_all_it_can_run(
    quarantined_queue: PostgresQueue, database: Database
) -> None:
    await database.rows("DELETE FROM replicas WHERE replica_id = 'good'")
    await quarantined_queue.parts.state.quarantines.refresh()
    for _ in range(2):
        await quarantined_queue.submit(new())
    assert len(await take_leases(quarantined_queue, "r4", "one", 2)) == 2


@pytest.mark.long
async def test_its_replicas_are_shown_with_the_reason(
    quarantined_queue: PostgresQueue, database: Database
) -> None:
    await ready(quarantined_queue, "r4", "one")
    shown = {row["replica_id"]: row["quarantine"] for row in await roster(database)}
    assert shown["good"] == ""
    assert "Node one is quarantined since" in shown["r4"]
    assert "it lost attempts 3 times" in shown["r4"]


@pytest.mark.long
async def test_the_term_of_a_replica_whose_leases_run_out_again_and_again_ends(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(LONG_LEASES)
    for _ in range(TOLERATED + 1):
        await ready(queue, "r1", "one")
        id_ = (await queue.submit(new())).id
        await take_leases(queue, "r1", "one")
        await database.rows(
            "UPDATE requests SET lease_until = now() - interval '1 s' WHERE state = 'running'"
        )
        assert await EndAttempts(database, LONG_LEASES).end_expired()
        await queue.cancel(TENANT, id_)
        await database.rows("UPDATE attempts SET ended_at = ended_at - interval '1 min'")

    async def told() -> bool:
        return (await queue.ask(ask(1, replica="r1", node="one"))).exit == GIVEN_UP.reason

    await eventually(told)


async def test_a_replica_whose_apps_die_again_and_again_goes_on(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(LONG_LEASES)
    died = failure(ReplicaDied.code, retryable=True)
    for _ in range(TOLERATED + 1):
        await ready(queue, "r1", "one")
        id_ = (await queue.submit(new())).id
        (lease,) = await take_leases(queue, "r1", "one")
        await queue.finish(make_finish(lease.key, died))
        await queue.cancel(TENANT, id_)
        await database.rows("UPDATE attempts SET ended_at = ended_at - interval '1 min'")
    await queue.parts.state.quarantines.judge()
    assert not (await queue.ask(ask(0, replica="r1", node="one"))).exit


async def test_the_term_of_a_replica_that_is_silent_for_long_ends(
    ingress: Ingress, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "SILENT_S", 0.5)
    queue = await ingress(LONG_LEASES)
    await ready(queue, "r1", "one")

    async def ended() -> bool:  # without an announcement, which would end the silence
        return bool(queue.parts.state.terms.end_of("actor-r1"))

    await eventually(ended)
    work = (await queue.announce(presence("r1", "one"))) or Work()
    assert work.exit == reaper.SILENT.reason
