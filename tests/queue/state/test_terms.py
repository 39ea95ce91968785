"""Terms of replicas over several ingress processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from psycopg.conninfo import make_conninfo

from serve_app.domain.lease import Death, Presence, ReplicaStage
from serve_app.postgres.database import Database
from serve_app.queue.queue import assemble
from serve_app.queue.reaper import SILENT_S
from serve_app.queue.state.terms import Terms
from serve_app.telemetry.clock import SystemClock
from tests.fakes.clock import FakeClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_ASKS, LONG_LEASES, Ingress
from tests.queue.requests import ask, new

JUMPING_CLOCK = """
CREATE SCHEMA jumping;
CREATE TABLE jumping.clock AS SELECT interval '0' AS ahead;
CREATE FUNCTION jumping.now() RETURNS timestamptz LANGUAGE sql STABLE AS
    'SELECT pg_catalog.now() + ahead FROM jumping.clock'
"""
CRASH = Death("its process ended", by_itself=True)
FAILED_NODE = Death("its node failed", by_itself=False)


async def test_all_processes_know_the_end_that_the_first_one_has_written(
    database: Database,
) -> None:
    first, second = Terms(database), Terms(database)
    await first.end({"a": CRASH})
    assert await second.end({"a": FAILED_NODE, "b": FAILED_NODE}) == {"a": CRASH, "b": FAILED_NODE}
    assert (second.end_of("a"), first.end_of("b")) == ("its process ended", "")
    await first.end({})
    assert first.end_of("b") == "its node failed"


async def test_an_ended_term_is_forgotten_after_a_while(database: Database) -> None:
    terms = Terms(database)
    await terms.end({"a": CRASH})
    await database.rows("UPDATE processes SET ended_at = now() - interval '61 min'")
    assert await terms.end({"b": CRASH}) == {"b": CRASH}
    assert terms.end_of("a") == ""


async def test_a_process_that_lives_on_for_long_after_its_end_is_told_again(
    database: Database,
) -> None:
    terms = Terms(database)
    await terms.end({"a": CRASH})
    await database.rows("UPDATE processes SET ended_at = now() - interval '61 min'")
    assert await terms.end({"a": FAILED_NODE}) == {"a": CRASH}
    assert terms.end_of("a") == CRASH.reason


@pytest.mark.parametrize("waits", [False, True])
async def test_nothing_is_leased_under_a_term_that_another_process_has_ended(
    ingress: Ingress, database: Database, *, waits: bool
) -> None:
    """Of a request that is queued, and of one that comes while the replica waits."""
    queue = await ingress(LONG_ASKS)
    await Terms(database).end({"actor-r1": FAILED_NODE})
    if waits:
        poll = asyncio.create_task(queue.ask(ask(1, replica="r1")))
        await asyncio.sleep(0)
        request = await queue.submit(new())
        work = await poll
    else:
        request = await queue.submit(new())
        work = await queue.ask(ask(1, replica="r1"))
    assert work.leases == ()
    (granted,) = (await queue.ask(ask(1, replica="r2"))).leases
    assert (granted.request_id, granted.attempt) == (request.id, 1)


async def test_nothing_is_known_of_replicas_from_the_time_in_which_the_process_stood_still(
    database: Database, terms: FakeTerms, liveness: FakeLiveness
) -> None:
    """They could not renew their leases with it, and go on."""
    clock = FakeClock()
    stats = assemble(database, clock, terms, LONG_LEASES, liveness, "ingress").parts.state.stats
    known: list[float] = []
    for passed_s in (1.0, 1.0, LONG_LEASES.lease_s, 1.0):
        clock.advance(passed_s)
        await stats.refresh()
        known.append(stats.healthy_s)
    assert known == [0.0, 1.0, 0.0, 1.0]


@pytest.fixture
async def jumping(database: Database, conninfo: str) -> AsyncIterator[Database]:
    """The database with a clock that is ahead by what ``jumping.clock`` says."""
    for statement in JUMPING_CLOCK.split(";"):
        await database.rows(statement)
    options = "-c search_path=jumping,pg_catalog,public"
    with_clock = Database(make_conninfo(conninfo, options=options))
    await with_clock.start()
    try:
        yield with_clock
    finally:
        await with_clock.aclose()
        await database.rows("DROP SCHEMA jumping CASCADE")


@pytest.mark.parametrize("jump", ["1 hour", "-1 hour"])
async def test_no_term_or_lease_ends_because_the_clock_of_the_database_jumps(
    jumping: Database, database: Database, terms: FakeTerms, liveness: FakeLiveness, jump: str
) -> None:
    """All replicas look silent for long then, and all leases look as if they had run out."""
    clock = FakeClock()
    parts = assemble(jumping, clock, terms, LONG_LEASES, liveness, "ingress").parts
    while parts.state.stats.healthy_s < max(SILENT_S, LONG_LEASES.lease_s):
        await parts.state.stats.refresh()
        clock.advance(SILENT_S / 2)
    r1 = Presence("r1", "actor-r1", "gpu", ReplicaStage.READY, slots=1)
    await parts.polls.announce(r1)
    await jumping.rows(f"UPDATE jumping.clock SET ahead = '{jump}'")
    await parts.reaper.end_dead_replicas()
    assert parts.state.terms.end_of("actor-r1") == ""
    await parts.state.stats.refresh()
    assert parts.state.stats.healthy_s == 0  # so nothing is reaped


class CountedLiveness(FakeLiveness):
    """Counts how often the cluster is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.is_away = False

    async def dead(self, actor_ids: Sequence[str]) -> Mapping[str, Death]:
        self.asked += 1
        if self.is_away:
            raise RuntimeError("The control store is away.")
        return await super().dead(actor_ids)


class Looking:
    """An ingress process that looks for dead replicas when a test says so."""

    def __init__(self, database: Database, terms: FakeTerms, name: str) -> None:
        self.liveness = CountedLiveness()
        parts = assemble(database, SystemClock(), terms, LONG_LEASES, self.liveness, name).parts
        self.parts = parts
        self.look = parts.reaper.end_dead_replicas

    async def announce(self) -> None:
        await self.parts.polls.announce(
            Presence("r1", "actor-r1", "gpu", ReplicaStage.READY, slots=1)
        )


@pytest.fixture
async def two(database: Database, terms: FakeTerms) -> tuple[Looking, Looking]:
    """Two processes that know a replica, of which the first one looks for the dead."""
    first, second = (Looking(database, terms, name) for name in ("first", "second"))
    for looker in (first, second):
        await looker.announce()
        await looker.look()
    return first, second


async def test_one_process_asks_the_cluster_who_is_dead_and_all_know(
    two: tuple[Looking, Looking],
) -> None:
    first, second = two
    first.liveness.buried.add("actor-r1")
    await first.look()
    await second.look()
    assert [looker.parts.state.terms.end_of("actor-r1") for looker in two] == [
        "its process ended"
    ] * 2
    assert (first.liveness.asked, second.liveness.asked) == (2, 0)


async def test_another_process_asks_the_cluster_when_the_one_that_did_is_gone(
    two: tuple[Looking, Looking], database: Database
) -> None:
    _, second = two
    await database.rows("UPDATE leaders SET until = now() - interval '1 second'")
    second.liveness.buried.add("actor-r1")
    await second.look()
    assert second.parts.state.terms.end_of("actor-r1") == "its process ended"


async def test_another_process_asks_the_cluster_when_one_cannot_reach_it(
    two: tuple[Looking, Looking],
) -> None:
    first, second = two
    first.liveness.is_away = True
    with pytest.raises(RuntimeError):
        await first.look()
    await second.look()
    assert second.liveness.asked == 1
