"""Many watchers of requests at one ingress: what they cost while nothing happens, and how soon they
are reported.

    python -m benchmarks.watchers [--watchers 200 2000] [--seconds 10]

Each watches a request of its own, as `/v1/requests/{id}/events` does. The queue that they watch and
the one by which the requests are run share this process and an embedded PostgreSQL, and nothing
else.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
import uuid
from pathlib import Path

import psutil

from benchmarks.queue_replica import OUTCOME, POOL, NoDeaths, NoTerms
from serve_app.domain.lease import Ask, Finish
from serve_app.domain.request import NewRequest
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.ingress.api.events import stream
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import migrate
from serve_app.telemetry.clock import SystemClock

TENANT = "tenant"


class CountingDatabase(Database):
    """Counts statements."""

    statements = 0

    async def rows(self, *arguments, **options):
        self.statements += 1
        return await super().rows(*arguments, **options)


async def watch(queue: PostgresQueue, request_id: str, ended: dict[str, float]) -> None:
    request = await queue.get(TENANT, request_id)
    async for _ in stream(queue, request, 0):
        pass
    ended[request_id] = time.perf_counter()


async def run_all(queue: PostgresQueue, count: int) -> dict[str, float]:
    """When each was finished."""
    finished: dict[str, float] = {}
    while len(finished) < count:
        work = await queue.ask(Ask("r", "r", POOL, 16))
        for lease in work.leases:
            finished[lease.request_id] = time.perf_counter()
            await queue.finish(Finish(lease.key, "r", OUTCOME))
        await asyncio.sleep(
            0.02
        )  # not as fast as it can: how late they are notified is the question
    return finished


async def measure(database: CountingDatabase, here, there, count: int, seconds: float) -> None:
    process, ended = psutil.Process(), {}
    ids = [str(uuid.uuid4()) for _ in range(count)]
    submits = [NewRequest(id_, TENANT, "noop", "0" * 16, POOL, {"prompt": "a"}) for id_ in ids]
    await asyncio.gather(*(there.submit(request) for request in submits))
    before = process.memory_info().rss
    watchers = [asyncio.create_task(watch(here, id_, ended)) for id_ in ids]
    await asyncio.sleep(3.0)
    watching = process.memory_info().rss
    statements, cpu = database.statements, time.process_time()
    await asyncio.sleep(seconds)
    rate = (database.statements - statements) / seconds
    share = (time.process_time() - cpu) / seconds
    later = process.memory_info().rss
    finished = await run_all(there, count)
    await asyncio.gather(*watchers)
    delays = [(ended[id_] - finished[id_]) * 1e3 for id_ in ids]
    cuts = statistics.quantiles(delays, n=100)
    print(
        f"{count:5d} watchers: {rate:5.1f} statements/s and {share:.0%} of a core while nothing "
        f"happens; memory {(watching - before) / count / 1024:.1f} KiB each, "
        f"{(later - watching) / 2**20:+.1f} MiB in {seconds:.0f} s; reported of the end after p50 "
        f"{cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watchers", type=int, nargs="*", default=[200, 2000])
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        embedded = EmbeddedPostgres(Path(scratch), grace_s=0.2)
        conninfo = await embedded.start()
        await migrate(conninfo)
        databases = [CountingDatabase(conninfo) for _ in range(2)]
        queues = []
        for n, database in enumerate(databases):
            await database.start()
            queues.append(
                assemble(
                    database, SystemClock(), NoTerms(), QueueLimits(), NoDeaths(), f"ingress-{n}"
                )
            )
            await queues[-1].start()
        for count in options.watchers:
            await measure(databases[0], *queues, count, options.seconds)
        for queue, database in zip(queues, databases, strict=True):
            await queue.aclose()
            await database.aclose()
        await embedded.aclose()
        await asyncio.sleep(2.0)  # the server stops before its files go


if __name__ == "__main__":
    asyncio.run(main())
