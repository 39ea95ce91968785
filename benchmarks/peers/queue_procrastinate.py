# type: ignore - what it imports is in that venv only
"""procrastinate, in a venv of its own: see ``benchmarks/queues.py``."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

import procrastinate
from queue_measure import measure, report

FILL = """
INSERT INTO procrastinate_jobs (queue_name, task_name, args)
SELECT 'noop', 'noop', '{{"sent": 0}}' FROM generate_series(1, {waiting})
"""


LEFT = "SELECT count(*) AS n FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"


class Procrastinate:
    def __init__(self, app: procrastinate.App, slots: int) -> None:
        self._app = app
        self._slots = slots
        self._done = 0
        self._delays: list[float] = []
        self._worker: asyncio.Task[None] | None = None
        self._task = app.task(name="noop", queue="noop")(self._noop)

    async def _noop(self, sent: float) -> None:
        self._delays.append(time.monotonic() - sent)
        self._done += 1

    async def fill(self, waiting: int) -> None:
        run = self._app.connector.execute_query_async
        await run("TRUNCATE procrastinate_jobs CASCADE")
        await run("ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER")
        await run(FILL.format(waiting=waiting))
        await run("ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER")
        await run("ANALYZE procrastinate_jobs")

    async def waits(self) -> int:
        return int((await self._app.connector.execute_query_one_async(LEFT))["n"])

    async def submit(self, sent: float) -> None:
        await self._task.defer_async(sent=sent)

    async def start(self) -> None:
        self._worker = asyncio.create_task(
            self._app.run_worker_async(
                concurrency=self._slots,
                install_signal_handlers=False,
                shutdown_graceful_timeout=1.0,
            )
        )

    async def stop(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker

    async def finished_count(self) -> int:
        return self._done

    async def delays(self) -> list[float]:
        taken, self._delays = self._delays, []
        return taken


async def main(url: str, waiting: int, seconds: float, callers: int, server: int) -> None:
    connector = procrastinate.PsycopgConnector(conninfo=url, min_size=4, max_size=16)
    app = procrastinate.App(connector=connector)
    async with app.open_async():
        exists = "SELECT to_regclass('procrastinate_jobs') IS NOT NULL AS yes"
        if not (await connector.execute_query_one_async(exists))["yes"]:
            await app.schema_manager.apply_schema_async()
        report(await measure(Procrastinate(app, callers), waiting, seconds, callers, server))


asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *map(int, sys.argv[4:])))
