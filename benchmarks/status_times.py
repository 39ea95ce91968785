"""Time of a status of a queued request, with its place and its expected start and end, beside 5,000
running requests on 1,000 replicas, against the same beside 10 on 2.

    python -m benchmarks.status_times [--running 10 5000] [--replicas 2 1000] [--tenants 10]
        [--rate 100] [--seconds 5] [--rounds 3]

Each installation is a database of one embedded PostgreSQL with a queue on it, as in an ingress
process, both in this process. A status is what `GET /queue/{app}/requests/{id}/status` asks the
queue for: the request and where it waits, without HTTP. The running requests and replicas are rows,
which the queue reads once a second; every tenant has a queued request. Statuses come ``--rate`` a
second for the installations in turns, so each has its share of calls that find what a refresh has
dropped, and compute it again.

Milliseconds of CPU of this thread, since a status waits for nothing: the time for which it keeps
the event loop from others. The mean of all statuses, and the longest, which is one that computes
again what a refresh has dropped. Beside them the median by the wall clock. The aim is 0.2 ms at the
mean; it was 8 ms when each call computed the free times of all slots.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from benchmarks.queue_replica import POOL
from benchmarks.queues import darkroom_queue, made_database
from serve_app.domain.request import NewRequest, State, WaitReason
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.ingress.services.request_ids import RequestIds
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.store.migrations import migrate
from serve_app.telemetry.clock import SystemClock

READ_S = 2.5  # until the periodic looks have read all there is
EXPECTED_S = 20.0  # of each request

REPLICAS = """
INSERT INTO replicas (replica_id, actor_id, pool, stage, slots, seen_at)
SELECT 'replica-' || n, 'actor-' || n, %(pool)s, 'ready', %(slots)s, now() + interval '1 day'
FROM generate_series(0, %(replicas)s - 1) n
"""
RUNNING = """
INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input, attempt,
                      replica_id, actor_id, started_at, lease_until)
SELECT gen_random_uuid(), 'tenant-' || n %% %(tenants)s, 'noop', '0', %(pool)s, 1, 'running', '{}',
       1, 'replica-' || n %% %(replicas)s, 'actor-' || n %% %(replicas)s,
       now() - random() * interval '20 s', now() + interval '1 day'
FROM generate_series(1, %(running)s) n
"""
LEARNED = """
INSERT INTO costs (endpoint, pool, n, work, seconds, work_work, work_seconds)
VALUES ('noop', %(pool)s, 50, 50, 50 * %(s)s::float, 50, 50 * %(s)s::float)
"""


@dataclass
class Installation:
    running: int
    replicas: int
    queue: PostgresQueue
    asked: Sequence[tuple[str, str]]  # tenant and id of the queued requests
    took_ms: list[float] = field(default_factory=list[float])
    cpu_ms: list[float] = field(default_factory=list[float])

    async def status(self, number: int) -> None:
        tenant, id_ = self.asked[number % len(self.asked)]
        began, cpu = time.perf_counter(), time.thread_time()
        request = await self.queue.get(tenant, id_)
        waiting = await self.queue.waiting(request)
        self.cpu_ms.append(1000 * (time.thread_time() - cpu))
        self.took_ms.append(1000 * (time.perf_counter() - began))
        assert request.state is State.QUEUED, request.state
        assert waiting.reason is WaitReason.BUSY, waiting
        assert waiting.starts_at is not None, "no start is expected, so nothing was computed"
        assert waiting.ends_at is not None, "no end is expected, so nothing was computed"
        assert waiting.position < len(self.asked), waiting


def fill(conninfo: str, running: int, replicas: int, tenants: int) -> None:
    """Each slot of the replicas runs a request."""
    if running % replicas:
        raise ValueError(f"{running} requests do not fill the slots of {replicas} replicas")
    parameters = {"pool": POOL, "slots": running // replicas, "s": EXPECTED_S}
    numbers = {"running": running, "replicas": replicas, "tenants": tenants}
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in (REPLICAS, RUNNING, LEARNED):
            connection.execute(statement, parameters | numbers)
        connection.execute("ANALYZE requests, replicas")


async def submit_requests(queue: PostgresQueue, tenants: int) -> list[tuple[str, str]]:
    """A queued request of each tenant."""
    new_id = RequestIds(SystemClock())
    requests = [(f"tenant-{n}", new_id()) for n in range(tenants)]
    for tenant, id_ in requests:
        await queue.submit(NewRequest(id_, tenant, "noop", "0" * 16, POOL, {"prompt": "a fox"}))
    return requests


async def measure(installations: list[Installation], rate: float, seconds: float) -> None:
    """Ask all of them in turns, each ``rate`` times a second."""
    for number in range(int(rate * seconds)):
        due = time.perf_counter() + 1 / rate
        first = number % len(installations)
        for installation in installations[first:] + installations[:first]:
            await installation.status(number)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))


def show(installation: Installation, against: Installation) -> None:
    mean, of = statistics.mean(installation.cpu_ms), statistics.mean(against.cpu_ms)
    print(
        f"{installation.running:6} running on {installation.replicas:5} replicas: "
        f"CPU mean {mean:7.3f} ms, longest {max(installation.cpu_ms):7.2f}, "
        f"wall p50 {statistics.median(installation.took_ms):7.3f}, "
        f"CPU against the first {mean / of:6.2f}, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


async def main(options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        embedded = EmbeddedPostgres(scratch / "data", grace_s=0.2)
        conninfo = await embedded.start()
        stack.push_async_callback(asyncio.sleep, 2.0)  # the server stops before its files go
        stack.push_async_callback(embedded.aclose)
        installations: list[Installation] = []
        for running, replicas in zip(options.running, options.replicas, strict=True):
            place = made_database(conninfo, str(len(installations)))
            await migrate(place)
            await asyncio.to_thread(fill, place, running, replicas, options.tenants)
            queue = await stack.enter_async_context(darkroom_queue(place))
            requests = await submit_requests(queue, options.tenants)
            installations.append(Installation(running, replicas, queue, requests))
        for installation in installations:
            for number in range(options.tenants):  # clients ask already, so places are read
                await installation.queue.waiting(
                    await installation.queue.get(*installation.asked[number])
                )
        await asyncio.sleep(READ_S)
        for number in range(options.rounds):
            before = [len(tested.cpu_ms) for tested in installations]
            await measure(installations, options.rate, options.seconds)
            parts = zip(before, installations, strict=True)
            means = [statistics.mean(tested.cpu_ms[start:]) for start, tested in parts]
            print(
                f"round {number + 1}: CPU mean ms", *(f"{mean:.3f}" for mean in means), flush=True
            )
        for installation in installations:
            show(installation, installations[0])


def read(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--running", type=int, nargs="+", default=[10, 5000])
    parser.add_argument("--replicas", type=int, nargs="+", default=[2, 1000])
    parser.add_argument("--tenants", type=int, default=10)
    parser.add_argument("--rate", type=float, default=100.0, help="statuses a second of each")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    asyncio.run(main(read(sys.argv[1:])))
