"""What a leasing costs beside many running requests, without limits on them and with.

    python -m benchmarks.running_limits [--running 100 8000 80000] [--tenants 1000] [--rounds 40]
        [--at-limit 1000]

One pool of an embedded PostgreSQL; so many requests run, of so many tenants, and 16 tenants more
have queued ones. Each leasing takes 8 of them, which are queued again behind the clock. With
limits, of another kind in each case, each tenant may run 1,000. `at their limit`: so many of the
running tenants have queued requests too, and are at their limit, so each leasing passes them by.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psycopg

from benchmarks.queue_replica import POOL
from serve_app.domain.lease import LeasePreference
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.postgres.database import Database
from serve_app.queue.fairness.running_limits import RunningLimits
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import migrate
from serve_app.queue.transactions.insert import DirectLease
from serve_app.queue.transactions.lease import lease_queued
from serve_app.settings import EndpointLimits, TenantLimits

SLOTS, WAITING_TENANTS = 8, 16
RUN = """
INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input, attempt,
                      replica_id, actor_id, started_at, lease_until)
SELECT gen_random_uuid(), 'runs-' || n %% %(tenants)s, 'endpoint-' || n %% 50, '0', %(pool)s, 1,
       'running', '{}', 1, 'r', 'a', now(), now() + interval '1 day'
FROM generate_series(1, %(running)s) n
"""
QUEUE = """
WITH tenant AS (
    INSERT INTO fair_lanes (pool, tenant, vtime)
    SELECT %(pool)s, %(of)s || '-' || n, %(vtime)s FROM generate_series(0, %(tenants)s - 1) n
    RETURNING tenant
)
INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input)
SELECT gen_random_uuid(), tenant, 'endpoint-' || n, '0', %(pool)s, 1, 'queued', '{}'
FROM tenant, generate_series(1, %(each)s) n
"""
AGAIN = """
UPDATE requests SET state = 'queued', lease_until = NULL, started_at = NULL
WHERE state = 'running' AND replica_id = 'measured'
"""
CLEAR = "TRUNCATE requests, attempts, events, fair_lanes, running_counts"

PLAIN = QueueLimits()
CASES = {
    "no limits": PLAIN,
    "one tenant": replace(PLAIN, tenants={"waits-1": TenantLimits(max_running=1000)}),
    "every tenant": replace(PLAIN, max_running_per_tenant=1000),
    "50 endpoints": replace(
        PLAIN, endpoints={f"endpoint-{n}": EndpointLimits(max_running=10_000) for n in range(50)}
    ),
}


async def took_ms(database: Database, limits: QueueLimits, rounds: int) -> tuple[float, float]:
    """Median and highest time of a leasing, after some that are not measured."""
    offers, took = [DirectLease("measured", "a")] * SLOTS, list[float]()
    known = RunningLimits(database, limits)
    known.left_out()
    await known.look()  # as an ingress process does once a second
    for _ in range(rounds + 5):
        began = time.perf_counter()
        left_out, number = known.left_out()
        wants = LeasePreference(left_out=left_out)
        leased = await lease_queued(database, POOL, offers, wants, limits, {})
        known.note_full(leased.full, number)
        took.append((time.perf_counter() - began) * 1e3)
        assert len(leased.grants) == SLOTS, len(leased.grants)
        await database.rows(AGAIN)
    return statistics.median(took[5:]), max(took[5:])


def fill(conninfo: str, running: int, tenants: int, at_limit: int) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(CLEAR)
        connection.execute(RUN, {"running": running, "tenants": tenants, "pool": POOL})
        waiting = {"pool": POOL, "tenants": WAITING_TENANTS, "each": 40}
        connection.execute(QUEUE, {**waiting, "of": "waits", "vtime": 1})
        if at_limit:
            full = {"pool": POOL, "tenants": at_limit, "each": 1}
            connection.execute(QUEUE, {**full, "of": "runs", "vtime": 0})
        connection.execute("VACUUM ANALYZE requests, fair_lanes")


async def main(numbers: list[int], tenants: int, rounds: int, at_limit: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        postgres = EmbeddedPostgres(Path(directory), grace_s=0.5)
        conninfo = await postgres.start()
        await migrate(conninfo)
        database = Database(conninfo)
        await database.start()
        try:
            for running in numbers:
                await asyncio.to_thread(fill, conninfo, running, tenants, 0)
                for name, limits in CASES.items():
                    median, most = await took_ms(database, limits, rounds)
                    print(f"{running:6} running, {name:20} {median:7.2f} ms, at most {most:7.2f}")
                most_each = max(1, running // tenants)
                limited = replace(PLAIN, max_running_per_tenant=most_each)
                lanes = min(at_limit, tenants, running)
                await asyncio.to_thread(fill, conninfo, running, tenants, lanes)
                median, most = await took_ms(database, limited, rounds)
                name = f"{lanes} at their limit"
                print(f"{running:6} running, {name:20} {median:7.2f} ms, at most {most:7.2f}")
        finally:
            await database.aclose()
            await postgres.aclose()
            await asyncio.sleep(2.0)  # the server stops before its files go


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--running", type=int, nargs="+", default=[100, 8000, 80_000])
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--at-limit", type=int, default=1000)
    options = parser.parse_args()
    asyncio.run(main(options.running, options.tenants, options.rounds, options.at_limit))
