"""How many no-op requests go through the queue each second: submit, lease, finish, wait.

    python benchmarks/queue_lifecycle.py [--seconds 5] [--callers 1 16 64] [--database URL]
    python benchmarks/queue_lifecycle.py --waiting 1000 100000 [--tenants 1 1000]

With ``--waiting`` it measures submits, leases and finishes while so many are queued, of so many
tenants.

Callers and replicas live in this process; PostgreSQL is the embedded one unless told otherwise.
Each replica keeps one ask outstanding and finishes at once what it gets.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
import uuid
from pathlib import Path

from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.lease import Ask, Finish, Lease
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.request import NewRequest, State
from serve_app.queue.database import Database
from serve_app.queue.embedded import EmbeddedPostgres
from serve_app.queue.limits import QueueLimits
from serve_app.queue.migrations import migrate
from serve_app.queue.postgres import PostgresQueue
from serve_app.telemetry.clock import SystemClock

POOL = "benchmark"
ENDPOINT = Endpoint(id="noop", family="noop", weights=Weights(source="/"), schema="noop")
OUTCOME = Outcome(output={"images": [{"url": "none"}]}, usage=Usage(0.001, 1, 1.0))


class NoTerms:
    files_url = ""

    def endpoint(self, endpoint_id: str):
        del endpoint_id
        return ENDPOINT

    def tickets(self, *terms):
        del terms
        return ()


class NobodyDies:
    async def dead(self, actor_ids):
        del actor_ids
        return frozenset()

    async def bygone(self, actor_ids):
        del actor_ids
        return frozenset()


class Replica:
    """Asks, and finishes what it gets; one ask outstanding, as many slots as it is told."""

    def __init__(self, queue: PostgresQueue, name: str, slots: int) -> None:
        self._queue = queue
        self._name = name
        self._free = slots
        self._room = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        while True:
            if self._free == 0:
                self._room.clear()
                await self._room.wait()
            work = await self._queue.ask(Ask(self._name, self._name, POOL, self._free))
            for lease in work.leases:
                self._free -= 1
                task = asyncio.create_task(self._finish(lease))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _finish(self, lease: Lease) -> None:
        await self._queue.finish(Finish(lease.held, self._name, OUTCOME))
        self._free += 1
        self._room.set()


async def caller(queue: PostgresQueue, until: float, latencies: list[float]) -> None:
    while time.perf_counter() < until:
        began = time.perf_counter()
        new = NewRequest(
            str(uuid.uuid4()), "tenant", "noop", "0" * 16, POOL, {"prompt": "a red circle"}
        )
        await queue.submit(new)
        ended = await queue.wait("tenant", new.id, 30.0)
        assert ended.state is State.SUCCEEDED, ended
        latencies.append(time.perf_counter() - began)


async def measure(queue: PostgresQueue, callers: int, seconds: float) -> None:
    replicas = [
        asyncio.create_task(Replica(queue, f"r{n}", max(2, callers // 2)).run()) for n in range(4)
    ]
    latencies: list[float] = []
    await asyncio.gather(*(caller(queue, time.perf_counter() + 0.5, []) for _ in range(callers)))
    began = time.perf_counter()
    until = began + seconds
    await asyncio.gather(*(caller(queue, until, latencies) for _ in range(callers)))
    elapsed = time.perf_counter() - began
    for replica in replicas:
        replica.cancel()
    await asyncio.gather(*replicas, return_exceptions=True)
    cuts = statistics.quantiles(latencies, n=100)
    print(
        f"{callers:4d} callers: {len(latencies) / elapsed:7.0f} requests/s, "
        f"p50 {cuts[49] * 1e3:6.2f} ms, p99 {cuts[98] * 1e3:6.2f} ms"
    )


FILL = """
INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input, events)
SELECT gen_random_uuid(), 'tenant-' || n % %(tenants)s::integer, 'noop', '0', %(pool)s, 1,
       'queued', '{"prompt":"a red circle"}', 1
FROM generate_series(1, %(count)s::integer) n
"""


async def fill(database: Database, waiting: int, tenants: int) -> None:
    await database.rows("TRUNCATE requests")
    for start in range(0, waiting, 4_000):
        count = min(4_000, waiting - start)
        await database.rows(FILL, {"count": count, "tenants": tenants, "pool": POOL})


async def measure_waiting(queue: PostgresQueue, seconds: float, waiting: int, tenants: int) -> None:
    """Submits one after the other; then one replica that leases eight at once and finishes them."""
    submits: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        new = NewRequest(str(uuid.uuid4()), "tenant", "noop", "0" * 16, POOL, {"prompt": "a"})
        began = time.perf_counter()
        await queue.submit(new)
        submits.append(time.perf_counter() - began)
    leases: list[float] = []
    count = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        work = await queue.ask(Ask("r0", "r0", POOL, 8))
        leases.append(time.perf_counter() - began)
        await asyncio.gather(
            *(queue.finish(Finish(lease.held, "r0", OUTCOME)) for lease in work.leases)
        )
        count += len(work.leases)
    print(
        f"{waiting:8d} waiting of {tenants:5d} tenants: submit p50 "
        f"{statistics.median(submits) * 1e3:6.2f} ms, lease of 8 p50 "
        f"{statistics.median(leases) * 1e3:6.2f} ms, {count / seconds:6.0f} leased and finished/s"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--waiting", type=int, nargs="*", default=[])
    parser.add_argument("--tenants", type=int, nargs="*", default=[1, 1000])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--database")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        embedded = EmbeddedPostgres(given.data or Path(scratch), grace_s=0.2)
        conninfo = given.database or await embedded.start()
        await migrate(conninfo)
        database = Database(conninfo)
        await database.start()
        queue = PostgresQueue(
            database, SystemClock(), NoTerms(), QueueLimits(), NobodyDies(), "benchmark"
        )
        await queue.start()
        for waiting in given.waiting:
            for tenants in given.tenants:
                await fill(database, waiting, tenants)
                await asyncio.sleep(2.5)  # counted, and lanes opened
                await measure_waiting(queue, given.seconds, waiting, tenants)
        for callers in () if given.waiting else given.callers:
            await measure(queue, callers, given.seconds)
        await queue.aclose()
        await database.aclose()
        await embedded.aclose()
        await asyncio.sleep(2.0)  # the server stops before its files go


if __name__ == "__main__":
    asyncio.run(main())
