"""What the search in prompts costs beside ten thousand requests and beside a million, and a submit
with words beside one without.

    python -m benchmarks.search [--ended 10000 1000000] [--rounds 5] [--submits 200]

Each number has a database of its own on one embedded PostgreSQL; the rounds go through them in
turn. The words: one of each request, one of every hundredth, one of five requests, and one of the
oldest tenth only, which is the worst case: a walk through the newest finds none, and the index has
too many. Submits are of one caller, in turns, with a prompt of 40 words and with the same text in a
field that is not searched.
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
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from benchmarks.ended_requests import BUSY, DAYS, SHAPE, seed
from benchmarks.queue_replica import POOL, NoDeaths, NoTerms
from serve_app.domain.request import NewRequest, RequestFilter
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.ingress.services.request_ids import RequestIds
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import migrate
from serve_app.telemetry.clock import SystemClock

WORDS = """
INSERT INTO request_words (tenant, request_id, words)
SELECT tenant, id, array_to_tsvector(ARRAY['@' || tenant, 'each']
    || CASE WHEN n %% 100 = 0 THEN ARRAY['hundredth'] ELSE '{}' END
    || CASE WHEN n <= 100 AND n %% 20 = 0 THEN ARRAY['five'] ELSE '{}' END
    || CASE WHEN n <= %(all)s / 10 THEN ARRAY['oldest'] ELSE '{}' END
    || ARRAY(SELECT 'w' || (n * s * 7919) %% 5000 FROM generate_series(1, 20) s GROUP BY 1))
FROM (SELECT tenant, id, row_number() OVER (ORDER BY id) AS n FROM requests) r
"""
SEARCHES = {
    "in each": "each",
    "in 1 of 100": "hundredth",
    "in 5": "five",
    "in the oldest tenth": "oldest",
    "in none": "nowhere",
}
TEXT = " ".join(f"word{n}" for n in range(40))
LIMIT = 50


async def took_ms(call: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await call()
    return (time.perf_counter() - began) * 1e3


async def search(queue: PostgresQueue, figures: dict[str, list[float]]) -> None:
    for name, words in SEARCHES.items():
        criteria = RequestFilter(BUSY, words)
        figures[name].append(await took_ms(lambda of=criteria: queue.gallery.search(of, LIMIT)))
    criteria = RequestFilter(BUSY)
    figures["page without words"].append(
        await took_ms(lambda: queue.gallery.search(criteria, LIMIT))
    )
    now = datetime.now(UTC)
    edges = [now - timedelta(days=n) for n in range(DAYS, -1, -1)]
    figures["counts of 30 days"].append(
        await took_ms(lambda: queue.gallery.count_by_day(BUSY, edges, ()))
    )


async def submit(queue: PostgresQueue, new_id: RequestIds, field: str) -> None:
    await queue.submit(NewRequest(new_id(), "submits", "endpoint-0", "0" * 16, POOL, {field: TEXT}))


async def main(numbers: list[int], rounds: int, submits: int) -> None:
    clock = SystemClock()
    SHAPE["tenants"] = 1  # it has all of them
    with tempfile.TemporaryDirectory() as folder:
        postgres = EmbeddedPostgres(Path(folder), grace_s=0.5)
        server = await postgres.start()
        try:
            async with AsyncExitStack() as stack:
                queues: dict[int, PostgresQueue] = {}
                for number in numbers:
                    conninfo = await make_database(server, number)
                    database = Database(conninfo)
                    await database.start()
                    stack.push_async_callback(database.aclose)
                    queue = queues[number] = assemble(
                        database, clock, NoTerms(), QueueLimits(), NoDeaths(), f"of-{number}"
                    )
                    await queue.start()
                    stack.push_async_callback(queue.aclose)
                await measure(queues, rounds, submits, RequestIds(clock))
        finally:
            await postgres.aclose()
            await asyncio.sleep(2.0)  # the server stops before its files go


async def make_database(server: str, number: int) -> str:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE ended_{number}".encode())
    conninfo = psycopg.conninfo.make_conninfo(server, dbname=f"ended_{number}")
    await migrate(conninfo)
    seed(conninfo, number)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(WORDS.encode(), {"all": number})
        connection.execute("VACUUM ANALYZE requests")
        connection.execute("VACUUM ANALYZE request_words")
    return conninfo


async def measure(
    queues: dict[int, PostgresQueue], rounds: int, submits: int, new_id: RequestIds
) -> None:
    figures = {number: defaultdict[str, list[float]](list) for number in queues}
    for _ in range(rounds):
        for number, queue in queues.items():
            await search(queue, figures[number])
    for number, times in figures.items():
        print(f"beside {number} requests, ms, median of {rounds}:")
        for name, durations in times.items():
            print(f"  {name:22} {statistics.median(durations):8.1f}")
    for number, queue in queues.items():
        spent: dict[str, list[float]] = {"prompt": [], "other": []}
        for _ in range(submits):
            for field, times in spent.items():
                times.append(await took_ms(lambda of=field, to=queue: submit(to, new_id, of)))
        ratio = statistics.median(spent["prompt"]) / statistics.median(spent["other"])
        means = statistics.mean(spent["prompt"]) / statistics.mean(spent["other"])
        print(f"beside {number}: a submit with 40 words takes {ratio:.3f} × (means {means:.3f} ×)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ended", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--submits", type=int, default=200)
    options = parser.parse_args()
    asyncio.run(main(options.ended, options.rounds, options.submits))
