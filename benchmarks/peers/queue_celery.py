# type: ignore - what it imports is in that venv only
"""Celery over Redis, in a venv of its own: see ``benchmarks/queues.py``.

The worker is a process of its own, as Celery has it. A message is acknowledged when it was run, and
given to another worker when its own died, as the other queues do.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from queue import SimpleQueue

import redis
from celery import Celery
from celery.signals import worker_ready
from queue_measure import measure, report

DONE, DELAYS = "finished", "delays"
CHUNK = 2_000
REPORT_S = 0.05

app = Celery("queue_celery")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
)


@cache
def counts() -> redis.Redis:
    return redis.Redis.from_url(app.conf.broker_url)


class Ran:
    """What the worker's threads did, reported to Redis now and then: a write for each run would be
    synced to the disk, and measured."""

    def __init__(self) -> None:
        self._done = 0
        self._lock = threading.Lock()
        self._delays: SimpleQueue[float] = SimpleQueue()
        self._reported = 0

    def note(self, sent: float) -> None:
        with self._lock:
            self._done += 1
        if sent:
            self._delays.put(time.monotonic() - sent)

    def report(self) -> None:
        while True:
            time.sleep(REPORT_S)
            if delays := [self._delays.get() for _ in range(self._delays.qsize())]:
                counts().rpush(DELAYS, *delays)
            if (done := self._done) != self._reported:
                counts().set(DONE, done)
                self._reported = done


ran = Ran()


@worker_ready.connect
def began(**_: object) -> None:
    threading.Thread(target=ran.report, daemon=True).start()


@app.task(name="noop")
def noop(sent: float) -> None:
    ran.note(sent)


class CeleryQueue:
    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._threads = ThreadPoolExecutor(slots)
        self._worker: subprocess.Popen[bytes] | None = None

    async def fill(self, waiting: int) -> None:
        counts().flushdb()
        if not waiting:
            return
        noop.delay(0.0)
        message = counts().lindex("celery", 0)
        for start in range(1, waiting, CHUNK):
            counts().lpush("celery", *[message] * min(CHUNK, waiting - start))

    async def waits(self) -> int:
        return int(counts().llen("celery"))

    async def submit(self, sent: float) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, noop.delay, sent)

    async def start(self) -> None:
        celery = str(Path(sys.executable).parent / "celery")
        pool = ("--pool=threads", f"--concurrency={self._slots}", "--loglevel=ERROR")
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
        app_ = ("-A", "queue_celery", "-b", app.conf.broker_url)
        self._worker = subprocess.Popen(  # noqa: ASYNC220, S603 our own module
            [celery, *app_, "worker", *pool, *quiet],
            cwd=Path(__file__).parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def stop(self) -> None:
        if self._worker is not None:
            self._worker.terminate()
            await asyncio.to_thread(self._worker.wait, 30)

    async def finished_count(self) -> int:
        return int(counts().get(DONE) or 0)

    async def delays(self) -> list[float]:
        taken = [float(delay) for delay in counts().lrange(DELAYS, 0, -1)]
        counts().delete(DELAYS)
        return taken


if __name__ == "__main__":
    app.conf.broker_url = sys.argv[1]
    waiting, seconds, callers = int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    work = measure(CeleryQueue(callers), waiting, seconds, callers, int(sys.argv[5]))
    report(asyncio.run(work))
