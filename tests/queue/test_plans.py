"""A plan is kept that was made while the tables were empty: it may not read all that is queued."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest

from serve_app.queue import lanes, orphans
from serve_app.queue.database import SESSION
from serve_app.queue.migrations import migrate

QUEUED, IDLE_LANES, MOST_READ = 5000, 50, 1000
FILL = f"""
INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input)
SELECT gen_random_uuid(), 'busy', 'noop', '0', 'pool', 1, 'queued', '{{}}'
FROM generate_series(1, {QUEUED})
"""
LANES = f"""
INSERT INTO fair_lanes (pool, tenant, active)
SELECT 'pool', 'tenant-' || n, false FROM generate_series(1, {IDLE_LANES}) n
"""
STATEMENTS = {"awake": lanes.SWEEP_AWAKE, "asleep": lanes.SWEEP_ASLEEP, "orphans": orphans.DUE}


@pytest.fixture
async def session(empty: str) -> AsyncIterator[psycopg.Connection]:
    """As the queue has them in a new installation, of whose tables PostgreSQL knows nothing yet;
    every statement was prepared there, and run."""
    await migrate(empty)
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute(SESSION)
        for name, statement in STATEMENTS.items():
            connection.execute(f"PREPARE {name} AS {statement}".encode())
            connection.execute(f"EXECUTE {name}".encode())
        yield connection


@pytest.mark.parametrize("name", STATEMENTS)
def test_what_is_done_each_second_does_not_read_the_queue(
    session: psycopg.Connection, name: str
) -> None:
    session.execute(LANES.encode())
    session.execute(FILL.encode())
    plan = session.execute(f"EXPLAIN (ANALYZE, BUFFERS) EXECUTE {name}".encode()).fetchall()
    read = next(line for (line,) in plan if "shared hit=" in line)
    assert int(read.split("shared hit=")[1].split()[0]) < MOST_READ, plan
