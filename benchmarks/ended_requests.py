"""What a request costs in the queue beside a thousand ended ones, and beside a million.

    python benchmarks/ended_requests.py [--ended 1000 1000000] [--rounds 5] [--seconds 4]

Each number has a database of its own on one embedded PostgreSQL; the rounds go through them in
turn, so what else the machine does falls on all alike. Submit, lease and finish are those of
queues.py, by 1 and by 16 callers. Then the history's pages, the deletion of one request,
and what the retention deletes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg

from benchmarks.queue_replica import POOL, NoDeaths, NoTerms, Replica
from serve_app.domain.request import NewRequest, State
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.ingress.services.request_ids import RequestIds
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.store.config import QueueLimits, Retention
from serve_app.queue.store.migrations import migrate
from serve_app.queue.transactions.deletion import Deletion
from serve_app.settings import TenantLimits
from serve_app.telemetry.clock import SystemClock

DAYS = 30
SHAPE = {"tenants": 20, "endpoints": 50, "days": DAYS, "pool": POOL}
CHUNK = 50_000
BUSY = "tenant-0"  # of whom the measured requests are, so it has the longest history

SEED = """
WITH made AS MATERIALIZED (
    SELECT n, now() - interval '1 day' * %(days)s * (1 - n::float8 / %(all)s) AS at
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
),
named AS MATERIALIZED (
    SELECT *, (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
        || '7' || lpad(to_hex(n %% 4096), 3, '0') || '8' || substr(md5(n::text), 1, 15)
        )::uuid AS id,
        'tenant-' || n %% %(tenants)s AS tenant, 'endpoint-' || n %% %(endpoints)s AS endpoint
    FROM made
),
kept AS (
    INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input,
        attempt, created_at, ranked_at, started_at, finished_at, outcome, events)
    SELECT id, tenant, endpoint, repeat('0', 16),
        %(pool)s, 1, CASE WHEN n %% 50 = 0 THEN 'failed' ELSE 'succeeded' END,
        json_build_object('prompt', repeat(md5(n::text), 8)), 1, at, at, at,
        at + interval '1 second',
        '{"output":{"images":[]},"artifacts":[],"failure":null,'
        '"usage":{"run_s":1.0,"steps":4,"units":1.0}}', 3
    FROM named
),
logged AS (
    INSERT INTO events (request_id, sequence, at, message)
    SELECT id, s, at, 'It went on.' FROM named, generate_series(1, 3) AS s
)
INSERT INTO usage (request_id, tenant, endpoint, state, attempt, run_s, steps, units, at)
SELECT id, tenant, endpoint, 'succeeded', 1, 1, 4, 1, at
FROM named
"""


def seed(conninfo: str, ended: int) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        for first in range(1, ended + 1, CHUNK):
            last = min(first + CHUNK - 1, ended)
            connection.execute(SEED, {**SHAPE, "all": ended, "first": first, "last": last})
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


async def run_request(queue: PostgresQueue, new_id: RequestIds) -> None:
    new = NewRequest(new_id(), BUSY, "noop", "0" * 16, POOL, {"prompt": "a red circle"})
    await queue.submit(new)
    ended = await queue.wait(BUSY, new.id, 30.0)
    assert ended.state is State.SUCCEEDED, ended


async def lifecycles(queue: PostgresQueue, callers: int, seconds: float) -> tuple[float, float]:
    """Requests a second, and the median time of one in ms."""
    new_id, took = RequestIds(SystemClock()), list[float]()
    replicas = [asyncio.create_task(Replica(queue, f"r{n}", max(2, callers)).run()) for n in (1, 2)]
    until = time.perf_counter() + seconds

    async def caller() -> None:
        while (began := time.perf_counter()) < until:
            await run_request(queue, new_id)
            took.append(time.perf_counter() - began)

    await asyncio.gather(*(caller() for _ in range(callers)))
    for replica in replicas:
        replica.cancel()
    await asyncio.gather(*replicas, return_exceptions=True)
    return len(took) / seconds, statistics.median(took) * 1e3


async def took_ms(call: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await call()
    return (time.perf_counter() - began) * 1e3


async def reads(queue: PostgresQueue, figures: dict[str, list[float]]) -> None:
    figures["page of 50, ms"].append(await took_ms(lambda: queue.page(BUSY)))
    rare = ("endpoint-20", [State.FAILED])
    figures["page of the failed of an endpoint, ms"].append(
        await took_ms(lambda: queue.page(BUSY, endpoints=[rare[0]], states=rare[1]))
    )
    figures["page of what there is none of, ms"].append(
        await took_ms(lambda: queue.page(BUSY, endpoints=["none"]))
    )
    oldest = (await queue.page(BUSY, states=[State.SUCCEEDED], limit=1))[0]
    figures["deletion, ms"].append(await took_ms(lambda: queue.delete(BUSY, oldest.id)))


async def main(numbers: list[int], rounds: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        postgres = EmbeddedPostgres(Path(directory), grace_s=0.5)
        conninfo = await postgres.start()
        figures: dict[int, dict[str, list[float]]] = {n: defaultdict(list) for n in numbers}
        async with AsyncExitStack() as stack:
            stack.push_async_callback(postgres.aclose)
            queues: dict[int, tuple[PostgresQueue, Database]] = {}
            for n in numbers:
                with psycopg.connect(conninfo, autocommit=True) as connection:
                    connection.execute(f"CREATE DATABASE ended_{n}")
                own = psycopg.conninfo.make_conninfo(conninfo, dbname=f"ended_{n}")
                await migrate(own)
                began = time.perf_counter()
                await asyncio.to_thread(seed, own, n)
                print(f"{n} ended: seeded in {time.perf_counter() - began:.0f} s", flush=True)
                database = Database(own)
                await database.start()
                stack.push_async_callback(database.aclose)
                queue = assemble(
                    database, SystemClock(), NoTerms(), QueueLimits(), NoDeaths(), f"of-{n}"
                )
                await queue.start()
                stack.push_async_callback(queue.aclose)
                queues[n] = queue, database
            for _ in range(rounds):
                for n, (queue, _) in queues.items():
                    for callers in (1, 16):
                        rate, median = await lifecycles(queue, callers, seconds)
                        figures[n][f"requests/s, {callers} callers"].append(rate)
                        figures[n][f"median, {callers} callers, ms"].append(median)
                    await reads(queue, figures[n])
            for n, (_, database) in queues.items():
                one_tenant = {
                    "tenant-1": TenantLimits(retention_days=DAYS - 0.2 * n / max(numbers))
                }
                deletion = Deletion(database, Retention(None, one_tenant))
                began = time.perf_counter()
                gone = len(await deletion.delete_aged())
                elapsed = time.perf_counter() - began
                print(f"{n} ended: retention deleted {gone} in {elapsed:.2f} s")
        for name in figures[numbers[0]]:
            cells = "  ".join(f"{n}: {statistics.median(figures[n][name]):8.2f}" for n in numbers)
            print(f"{name:42s} {cells}")
        await asyncio.sleep(2.0)  # the server stops before its files go


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ended", type=int, nargs="+", default=[1000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    asyncio.run(main(options.ended, options.rounds, options.seconds))
