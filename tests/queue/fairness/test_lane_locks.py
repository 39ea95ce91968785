"""Statements that write several lanes lock them in order, so that no two of them deadlock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest

from serve_app.domain.lease import LeaseKey
from serve_app.postgres.database import Database
from serve_app.queue.fairness import fair_queue
from serve_app.queue.transactions.end_attempt import AttemptEnd, EndAttempts, EndReason
from serve_app.queue.transactions.insert import DirectLease, EncodedInput, NewRow, insert_requests
from tests.queue.database import LONG_LEASES
from tests.queue.requests import new

TENANTS = [f"tenant-{n:02}" for n in range(24)]
# The order of their names is not the order of the rows.
LANES = """
INSERT INTO fair_lanes (pool, tenant, active)
SELECT 'studio', 'tenant-' || lpad(n::text, 2, '0'), false FROM generate_series(23, 0, -1) n
"""
BLOCKED = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
FREE = """
SELECT count(*) FROM (SELECT FROM fair_lanes FOR NO KEY UPDATE SKIP LOCKED) f
"""


async def submit_requests(database: Database, offer: DirectLease | None = None) -> list[LeaseKey]:
    requests = [new(tenant=tenant) for tenant in (*TENANTS[12:], *TENANTS[:12])]
    rows = [NewRow(request, EncodedInput(request.input), offer) for request in requests]
    results = [
        inserted.request for inserted in await insert_requests(database, rows, 60.0) if inserted
    ]
    return [LeaseKey(result.id, result.attempt, result.lease_nonce) for result in results]


async def insert(database: Database) -> Callable[[], Awaitable[object]]:
    return lambda: submit_requests(database)


async def end_attempts(database: Database) -> Callable[[], Awaitable[object]]:
    lease_keys = await submit_requests(database, DirectLease("r1", "a1"))
    ends = [
        AttemptEnd(lease_key, EndReason.UNDELIVERED, "It was not delivered")
        for lease_key in lease_keys
    ]
    return lambda: EndAttempts(database, LONG_LEASES).end(ends)


async def sweep(database: Database) -> Callable[[], Awaitable[object]]:
    await submit_requests(database)
    await database.rows("UPDATE fair_lanes SET active = false")
    return lambda: database.rows(fair_queue.SWEEP_AWAKE)


@pytest.mark.parametrize("prepare", [insert, end_attempts, sweep])
async def test_a_statement_that_waits_for_the_first_lane_has_locked_no_other(
    database: Database, prepare: Callable[[Database], Awaitable[Callable[[], Awaitable[object]]]]
) -> None:
    await database.rows(LANES)
    act = await prepare(database)
    conninfo = database.conninfo
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as probe:
        async with await psycopg.AsyncConnection.connect(conninfo) as other:
            await other.execute(
                "SELECT FROM fair_lanes WHERE tenant = %s FOR NO KEY UPDATE", (TENANTS[0],)
            )
            acting = asyncio.ensure_future(act())
            async with asyncio.timeout(120):
                while await fetch_count(probe, BLOCKED) == 0:  # noqa: ASYNC110  the server blocks it
                    await asyncio.sleep(0.01)
            free = await fetch_count(probe, FREE)
        await acting
        assert free == len(TENANTS) - 1
        assert await fetch_count(probe, "SELECT count(*) FROM fair_lanes WHERE active") == len(
            TENANTS
        )


async def fetch_count(connection: psycopg.AsyncConnection, statement: str) -> int:
    row = await (await connection.execute(statement.encode())).fetchone()
    assert row is not None
    return int(row[0])
