"""Budgets of what a request costs the database: the width of its table, and from its submit to its
end its statements, rows and WAL. Each is what was measured, the WAL with some percent of room.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from serve_app.domain.artifact import Artifact
from serve_app.domain.lease import Lease
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.request import Webhook
from serve_app.postgres.database import UNAWAITED, Database, Lock
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.store.migrations import migrate
from serve_app.telemetry.clock import SystemClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES
from tests.queue.requests import ask, make_finish, new, report

LIMITS = replace(LONG_LEASES, ask_wait_s=600.0, check_interval_s=600.0)
WARM_UP, WINDOWS, IN_WINDOW = 40, 9, 20

COLUMNS, INDEXES, TRIGGERS = 54, 31, 6
WIDTH = """
SELECT (SELECT count(*) FROM pg_attribute
        WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
       (SELECT count(*) FROM pg_index WHERE indrelid = c.oid),
       (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal)
FROM pg_class c WHERE c.oid = 'requests'::regclass
"""
POSITION = "SELECT pg_current_wal_insert_lsn() - '0/0'"
FLUSH = "SELECT pg_stat_force_next_flush()"
WRITTEN = """
SELECT sum(n_tup_ins)::bigint, sum(n_tup_upd)::bigint
FROM pg_stat_user_tables
"""


class CountingDatabase(Database):
    """Has one connection, and counts its statements by name, its round trips and the commits that
    wait for the disk.
    """

    def __init__(self, conninfo: str) -> None:
        super().__init__(conninfo, connections=1)
        self.clear()

    def clear(self) -> None:
        self.statements: Counter[str] = Counter()
        self.round_trips = self.durable = 0

    async def rows(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        lock: Lock | None = None,
        limit_s: float | None = None,
    ) -> list[tuple[Any, ...]]:
        self.statements[self._statement(sql).name] += 1
        transaction = lock is not None or limit_s is not None
        self.round_trips += 1 + 2 * transaction + (lock is not None) + (limit_s is not None)
        self.durable += UNAWAITED not in sql or bool((params or {}).get("durable"))
        return await super().rows(sql, params, lock=lock, limit_s=limit_s)


@pytest.fixture
async def counting(empty: str) -> AsyncIterator[CountingDatabase]:
    await migrate(empty)
    database = CountingDatabase(empty)
    await database.start()
    yield database
    await database.aclose()


@pytest.fixture
async def queue(
    counting: CountingDatabase, terms: FakeTerms, liveness: FakeLiveness
) -> AsyncIterator[PostgresQueue]:
    postgres = assemble(counting, SystemClock(), terms, LIMITS, liveness, "ingress-1")
    await postgres.start()
    yield postgres
    await postgres.aclose()


async def lease(queue: PostgresQueue, **changes: Any) -> Lease:
    """Submit a request while a replica polls, and return its lease."""
    polling = asyncio.create_task(queue.ask(poll := ask()))
    parts = queue.parts
    while not (parts.state.waiters.slots(poll.pool) and parts.polls.is_drained(poll.pool)):  # noqa: ASYNC110
        await asyncio.sleep(0)  # otherwise the request is stored first, and leased afterwards
    await queue.submit(new(**changes))
    (granted,) = (await polling).leases
    return granted


async def run(queue: PostgresQueue) -> None:
    """Call an endpoint that does nothing, and wait for the outcome."""
    granted = await lease(queue, input={}, answered_at_end=True)
    await queue.finish(make_finish(granted.key))


async def submit_with_webhook(queue: PostgresQueue) -> None:
    granted = await lease(
        queue, webhook=Webhook("https://receiver.example/hook", "https://darkroom.example")
    )
    await queue.finish(make_finish(granted.key))


async def make_image(queue: PostgresQueue) -> None:
    """Make an image, which takes so long that the replica reports once."""
    granted = await lease(queue)
    await queue.report(report(granted.key))
    stem = f"f/{granted.key.request_id}/1/0"
    small = Artifact(f"{stem}.webp", "image/webp", 6_000, "b" * 64, 256, 256)
    image = Artifact(f"{stem}.png", "image/png", 20_000, "a" * 64, 512, 512, thumbnail=small)
    output = {"images": [{"url": stem, "width": 512, "height": 512}], "seed": 1}
    await queue.finish(
        make_finish(granted.key, Outcome(output, (image,), usage=Usage(1.5, 4, 1.0)))
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one request."""

    statements: Sequence[str]  # in the order of their names
    round_trips: int
    durable: int  # commits that wait for the disk
    inserted: int  # rows
    updated: int
    wal: int  # bytes


RUN = Cost(("end_attempts", "insert"), 2, 1, inserted=2, updated=1, wal=2000)
SUBMIT = Cost(("end_attempts", "insert"), 2, 2, inserted=4, updated=1, wal=3150)
IMAGE = Cost(("end_attempts", "insert", "report"), 3, 2, inserted=5, updated=2, wal=4400)


async def measure(
    database: CountingDatabase,
    queue: PostgresQueue,
    call: Callable[[PostgresQueue], Awaitable[None]],
) -> Cost:
    """Mean of many calls, in which what the queue does from time to time is rounded off. The WAL,
    the round trips and the commits are the least of windows: a checkpoint, a vacuum or another
    database of the server adds to them, and what is periodic the more, the slower the machine is.
    """
    for _ in range(WARM_UP):
        await call(queue)
    before = await rows_written(database)
    wal: list[float] = []
    trips: list[float] = []
    durable: list[float] = []
    database.clear()
    for _ in range(WINDOWS):
        start = await wal_position(database)
        seen = database.round_trips, database.durable
        for _ in range(IN_WINDOW):
            await call(queue)
        trips.append((database.round_trips - seen[0]) / IN_WINDOW)
        durable.append((database.durable - seen[1]) / IN_WINDOW)
        wal.append((await wal_position(database) - start) / IN_WINDOW)
    after = await rows_written(database)
    calls = WINDOWS * IN_WINDOW
    inserted, updated = (round((b - a) / calls) for a, b in zip(before, after, strict=True))
    return Cost(
        sorted(name for name, n in database.statements.items() for _ in range(round(n / calls))),
        round(min(trips)),
        round(min(durable)),
        inserted,
        updated,
        round(min(wal)),
    )


async def wal_position(database: Database) -> int:
    ((position,),) = await Database.rows(database, POSITION)
    return int(position)


async def rows_written(database: Database) -> tuple[int, int]:
    """Rows inserted and updated so far."""
    await database.rows(FLUSH)  # by the end of the statement
    ((inserted, updated),) = await database.rows(WRITTEN)
    return inserted, updated


async def test_the_position_of_a_leased_request_is_not_read(
    counting: CountingDatabase, queue: PostgresQueue
) -> None:
    granted = await lease(queue)
    stored = await queue.get(granted.tenant, granted.key.request_id)
    counting.clear()
    assert (await queue.waiting(stored)).position == 0
    await queue.parts.state.stats.refresh()  # reads the positions that were asked for
    assert "read_positions" not in counting.statements


async def test_the_table_of_requests_gets_no_wider(counting: CountingDatabase) -> None:
    ((columns, indexes, triggers),) = await counting.rows(WIDTH)
    assert columns <= COLUMNS
    assert indexes <= INDEXES
    assert triggers <= TRIGGERS


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    ("call", "budget"), [(run, RUN), (submit_with_webhook, SUBMIT), (make_image, IMAGE)]
)
async def test_a_request_costs_no_more_than_its_budget(
    counting: CountingDatabase,
    queue: PostgresQueue,
    call: Callable[[PostgresQueue], Awaitable[None]],
    budget: Cost,
) -> None:
    cost = await measure(counting, queue, call)
    assert list(cost.statements) == list(budget.statements)
    assert cost.round_trips <= budget.round_trips
    assert cost.durable <= budget.durable
    assert cost.inserted <= budget.inserted
    assert cost.updated <= budget.updated
    assert cost.wal <= budget.wal
