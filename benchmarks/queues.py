"""Darkroom's queue beside procrastinate, pgqueuer and Celery over Redis.

    python -m benchmarks.queues --peers VENV [--seconds 5] [--callers 16] [--rounds 3]
        [--waiting 0 1000 100000 1000000] [--tenants 1 1000] [--only darkroom ...] [--quick]

VENV is that of the peers: `python -m venv VENV`, then `VENV/bin/pip install procrastinate pgqueuer
"celery[redis]" "psycopg[binary,pool]" asyncpg`. Celery needs a `redis-server` on the path. Without
VENV, Darkroom alone is measured.

The same work for each, which is none; the same durability: PostgreSQL syncs each commit to the
disk (fsync and synchronous_commit on, one server for the three that use it, a database each), and
Redis each command (appendfsync always); what a dead worker held is run again. In turn, round by
round, so what else the machine does falls on all alike; medians of the rounds. So many callers
submit at once, into a queue in which so many wait; then as many slots run what is queued. Start is
the time from a submit to the begin of its run, one at a time, nothing else being queued.

Tenants are Darkroom's alone: the others have none to take turns among, and are measured with
one. They neither fence a worker that was given up, nor bill.

Not called `queue.py`: the folder is on the path of every script in it, and hides the library's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo as conninfo_

from benchmarks.peers.queue_measure import Figures, measure
from benchmarks.queue_replica import OUTCOME, POOL, NoDeaths, NoTerms
from serve_app.domain.lease import Ask, Finish, Lease
from serve_app.domain.request import NewRequest
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.free_ports import free_port
from serve_app.ingress.services.request_ids import RequestIds
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import migrate
from serve_app.telemetry.clock import SystemClock

PEERS = ("procrastinate", "pgqueuer", "celery")
HERE = Path(__file__).parent
CHUNK = 50_000
REPLICAS = 4

CLEAR = "TRUNCATE requests, attempts, events, usage, fair_lanes"
FILL = """
INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input, events)
SELECT gen_random_uuid(), 'tenant-' || n %% %(tenants)s, 'noop', '0', %(pool)s, 1,
       'queued', '{"prompt":"a red circle"}', 1
FROM generate_series(1, %(count)s) n
"""
LANES = """
INSERT INTO fair_lanes (pool, tenant)
SELECT %(pool)s, 'tenant-' || n FROM generate_series(0, %(tenants)s - 1) n
ON CONFLICT DO NOTHING
"""


class Darkroom:
    """The queue in this process, as in an ingress, with replicas beside it."""

    def __init__(self, queue: PostgresQueue, conninfo: str, tenants: int, slots: int) -> None:
        self._queue = queue
        self._conninfo = conninfo
        self._tenants = tenants
        self._slots = max(1, slots // REPLICAS)
        self._new_id = RequestIds(SystemClock())
        self._sent: dict[str, float] = {}
        self._delays: list[float] = []
        self._submitted = self._done = 0
        self._replicas: list[asyncio.Task[None]] = []
        self._finishing: set[asyncio.Task[None]] = set()

    async def fill(self, waiting: int) -> None:
        await asyncio.to_thread(self._fill, waiting)
        await asyncio.sleep(2.5)  # counted, by the look of each second

    async def waits(self) -> int:
        return (await self._queue.demand())[POOL].queued

    async def submit(self, sent: float) -> None:
        self._submitted += 1
        id_, tenant = self._new_id(), f"tenant-{self._submitted % self._tenants}"
        self._sent[id_] = sent
        await self._queue.submit(
            NewRequest(id_, tenant, "noop", "0" * 16, POOL, {"prompt": "a red circle"})
        )

    async def start(self) -> None:
        self._replicas = [asyncio.create_task(self._run(f"r{n}")) for n in range(REPLICAS)]

    async def stop(self) -> None:
        for replica in self._replicas:
            replica.cancel()
        await asyncio.gather(*self._replicas, *self._finishing, return_exceptions=True)

    async def finished_count(self) -> int:
        return self._done

    async def delays(self) -> list[float]:
        taken, self._delays = self._delays, []
        return taken

    def _fill(self, waiting: int) -> None:
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            self._clear(connection)
            parameters = {"tenants": self._tenants, "pool": POOL}
            connection.execute(LANES, parameters)
            for start in range(0, waiting, CHUNK):
                connection.execute(FILL, {**parameters, "count": min(CHUNK, waiting - start)})
            connection.execute("ANALYZE requests, fair_lanes")

    def _clear(self, connection: psycopg.Connection) -> None:
        while True:
            # The queue's own looks lock the same tables one after another.
            with suppress(psycopg.errors.DeadlockDetected):
                connection.execute(CLEAR)
                return

    async def _run(self, name: str) -> None:
        free, room = self._slots, asyncio.Event()

        async def finish(lease: Lease) -> None:
            nonlocal free
            if sent := self._sent.pop(lease.request_id, 0.0):
                self._delays.append(time.monotonic() - sent)
            await self._queue.finish(Finish(lease.key, name, OUTCOME))
            self._done += 1
            free += 1
            room.set()

        while True:
            if not free:
                room.clear()
                await room.wait()
            for lease in (await self._queue.ask(Ask(name, name, POOL, free))).leases:
                free -= 1
                task = asyncio.create_task(finish(lease))
                self._finishing.add(task)
                task.add_done_callback(self._finishing.discard)


@dataclass(frozen=True)
class Case:
    name: str
    waiting: int
    tenants: int = 1


@asynccontextmanager
async def darkroom_queue(
    conninfo: str, ingress_id: str = "benchmark"
) -> AsyncGenerator[PostgresQueue]:
    """The queue in this process, as in an ingress."""
    await migrate(conninfo)
    database = Database(conninfo)
    await database.start()
    limits = QueueLimits(max_waiting=10**8, max_waiting_per_tenant=10**8)
    queue = assemble(database, SystemClock(), NoTerms(), limits, NoDeaths(), ingress_id)
    await queue.start()
    try:
        yield queue
    finally:
        await queue.aclose()
        await database.aclose()


@asynccontextmanager
async def darkroom(conninfo: str, tenants: int, callers: int) -> AsyncGenerator[Darkroom]:
    async with darkroom_queue(conninfo) as queue:
        yield Darkroom(queue, conninfo, tenants, callers)


@contextmanager
def redis_server(folder: Path):
    """The URL of one that syncs every command to the disk, and the id of its process."""
    port = free_port()
    durable = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
    where = ("--dir", str(folder), "--bind", "127.0.0.1", "--port", str(port))
    command = ("redis-server", *where, *durable, "--loglevel", "warning")
    process = subprocess.Popen(command)  # noqa: S603 as it is said
    try:
        yield f"redis://127.0.0.1:{port}/0", process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


def peer(python: Path, case: Case, url: str, options: argparse.Namespace, server: int) -> Figures:
    """The peer's own process, and the last line that it says."""
    script = HERE / "peers" / f"queue_{case.name}.py"
    numbers = (case.waiting, options.seconds, options.callers, server)
    ran = subprocess.run(  # noqa: S603 our own modules
        [str(python), str(script), url, *map(str, numbers)],
        stdout=subprocess.PIPE,
        timeout=1800,
        check=True,
    )
    return Figures(**json.loads(ran.stdout.splitlines()[-1]))


def made_database(conninfo: str, name: str) -> str:
    """The URL of a database of its own there."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE bench_{name}".encode())
    return conninfo_.make_conninfo(conninfo, dbname=f"bench_{name}")


def process_of_postgres(data: Path) -> int:
    return int(next(data.rglob("postmaster.pid")).read_text().splitlines()[0])


def as_url(conninfo: str) -> str:
    """As asyncpg reads it too."""
    parts: Mapping[str, Any] = conninfo_.conninfo_to_dict(conninfo)
    who = f"{parts['user']}:{parts['password']}"
    return f"postgresql://{who}@/{parts['dbname']}?host={parts['host']}&port={parts['port']}"


def cases(options: argparse.Namespace) -> Sequence[Case]:
    listed: list[Case] = []
    for waiting in options.waiting:
        for name in options.only:
            of = options.tenants if name == "darkroom" and waiting else options.tenants[:1]
            listed += [Case(name, waiting, tenants) for tenants in of]
    return listed


def format_case(case: Case, rounds: Sequence[Figures]) -> str:
    def middle(name: str) -> float:
        return statistics.median(getattr(turn, name) for turn in rounds)

    start = ""
    if rounds[0].start_p50_ms is not None:
        start = f", start p50 {middle('start_p50_ms'):6.1f} ms"
    return (
        f"{case.name:14s} {case.waiting:9d} waiting, {case.tenants:5d} tenants: "
        f"submits {middle('submit_per_s'):7.0f}/s, p50 {middle('submit_p50_ms'):6.2f} ms; "
        f"finished {middle('finish_per_s'):7.0f}/s of {middle('finish_cpu_ms'):5.2f} ms CPU{start}"
    )


async def main(options: argparse.Namespace) -> None:
    figures: defaultdict[Case, list[Figures]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.data)))
        embedded = EmbeddedPostgres(scratch / "data", grace_s=0.2)
        conninfo = await embedded.start()
        stack.push_async_callback(asyncio.sleep, 2.0)  # the server stops before its files go
        stack.push_async_callback(embedded.aclose)
        postmaster = process_of_postgres(scratch)
        where = {
            name: (made_database(conninfo, name), postmaster)
            for name in options.only
            if name != "celery"
        }
        if "celery" in options.only:
            where["celery"] = stack.enter_context(redis_server(scratch))
        for _ in range(options.rounds):
            for case in cases(options):
                url, server = where[case.name]
                if case.name == "darkroom":
                    async with darkroom(url, case.tenants, options.callers) as system:
                        numbers = (case.waiting, options.seconds, options.callers, server)
                        measured = await measure(system, *numbers)
                else:
                    python = options.peers / "bin" / "python"
                    address = url if case.name == "celery" else as_url(url)
                    measured = await asyncio.to_thread(peer, python, case, address, options, server)
                figures[case].append(measured)
                print(format_case(case, [measured]), flush=True)
    print(f"\nMedians of {options.rounds} rounds, {options.callers} callers and slots:")
    for case, rounds in figures.items():
        print(format_case(case, rounds))


def read(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--peers", type=Path, help="a venv with the others")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--waiting", type=int, nargs="*", default=[0, 1000, 100_000, 1_000_000])
    parser.add_argument("--tenants", type=int, nargs="*", default=[1, 1000])
    parser.add_argument("--only", nargs="*", choices=("darkroom", *PEERS))
    parser.add_argument("--data", type=Path, help="a folder on the disk to measure on")
    parser.add_argument("--quick", action="store_true", help="one short round at small sizes")
    options = parser.parse_args(arguments)
    options.only = options.only or ["darkroom", *(PEERS if options.peers else ())]
    if options.peers is None and options.only != ["darkroom"]:
        parser.error("the others need --peers, a venv that has them")
    if options.quick:
        options.rounds, options.seconds, options.waiting = 1, 1.0, [0, 1000, 20_000]
        options.tenants = [1, 100]
    return options


if __name__ == "__main__":
    asyncio.run(main(read(sys.argv[1:])))
