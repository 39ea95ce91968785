# type: ignore - what it imports is in that venv only
"""pgqueuer, in a venv of its own: see ``benchmarks/queues.py``."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from datetime import timedelta

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from queue_measure import measure, report

CHUNK = 5_000
LEFT = "SELECT count(*) FROM pgqueuer"
# It writes completions in batches: what has only been run does not count.
DONE = "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'"


class Pgqueuer:
    def __init__(self, pool: asyncpg.Pool, slots: int) -> None:
        self._pool = pool
        self._slots = slots
        self._queries = Queries(AsyncpgPoolDriver(pool))
        self._delays: list[float] = []
        self._worker: asyncio.Task[None] | None = None

    async def _noop(self, job: Job) -> None:
        self._delays.append(time.monotonic() - float(job.payload or b"0"))

    async def fill(self, waiting: int) -> None:
        await self._pool.execute("TRUNCATE pgqueuer, pgqueuer_log")
        for start in range(0, waiting, CHUNK):
            n = min(CHUNK, waiting - start)
            await self._queries.enqueue(["noop"] * n, [b"0"] * n, [0] * n)
        await self._pool.execute("ANALYZE pgqueuer")

    async def waits(self) -> int:
        return int(await self._pool.fetchval(LEFT))

    async def submit(self, sent: float) -> None:
        await self._queries.enqueue("noop", str(sent).encode())

    async def start(self) -> None:
        queuer = PgQueuer(AsyncpgPoolDriver(self._pool))
        queuer.entrypoint("noop")(self._noop)
        self._worker = asyncio.create_task(
            queuer.run(
                dequeue_timeout=timedelta(seconds=1),
                batch_size=self._slots,
                max_concurrent_tasks=2 * self._slots,
            )
        )

    async def stop(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker

    async def finished_count(self) -> int:
        return int(await self._pool.fetchval(DONE))

    async def delays(self) -> list[float]:
        taken, self._delays = self._delays, []
        return taken


async def main(url: str, waiting: int, seconds: float, callers: int, server: int) -> None:
    pool = await asyncpg.create_pool(url, min_size=4, max_size=16)
    if await pool.fetchval("SELECT to_regclass('pgqueuer')") is None:
        await Queries(AsyncpgPoolDriver(pool)).install()
    report(await measure(Pgqueuer(pool, callers), waiting, seconds, callers, server))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(pool.close(), 5)


asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *map(int, sys.argv[4:])))
