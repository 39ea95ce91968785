"""What inputs with images inside cost the queue, by their size.

    python -m benchmarks.large_inputs [--bytes 1000 65000 1000000 4000000] [--count 100]

So many requests are submitted one after another, each asked for as a status is when what is known
of it has grown old, then all are leased and finished. Beside it, what it takes to store as many
bytes in a directory, as artifacts are. Memory is what the process with the queue has grown by while
all of them wait.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import statistics
import string
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil

from benchmarks.queue_replica import OUTCOME, POOL, NoDeaths, NoTerms
from serve_app.domain.lease import Ask, Finish
from serve_app.domain.request import NewRequest
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.ingress.services.request_ids import RequestIds
from serve_app.postgres.database import Database
from serve_app.queue.queue import assemble
from serve_app.queue.state.request_cache import FRESH_S
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import migrate
from serve_app.storage.directory import DirectoryStorage
from serve_app.telemetry.clock import SystemClock

CALLERS = 8


def image(length: int, seed: int) -> str:
    """As a data URI is: text that does not get shorter by compression below three quarters."""
    letters = random.Random(seed).choices(string.ascii_letters + string.digits + "+/", k=length)
    return "data:image/png;base64," + "".join(letters)


async def each(work: Callable[[int], Awaitable[object]], count: int) -> float:
    """Median of milliseconds, some callers at once."""
    took: list[float] = []
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            began = time.monotonic()
            await work(number)
            took.append(1e3 * (time.monotonic() - began))

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return statistics.median(took)


async def measure(conninfo: str, folder: Path, length: int, count: int) -> None:
    database, new_id = Database(conninfo), RequestIds(SystemClock())
    await database.start()
    limits = QueueLimits()
    queue = assemble(database, SystemClock(), NoTerms(), limits, NoDeaths(), "benchmark")
    await queue.start()
    storage = DirectoryStorage(folder, b"0" * 32, "http://127.0.0.1", SystemClock())
    images = [image(length, seed) for seed in range(8)]
    ids = [new_id() for _ in range(count)]
    gc.collect()
    before = psutil.Process(os.getpid()).memory_info().rss

    async def submit(number: int) -> None:
        inputs = {"prompt": "a red circle", "image_url": images[number % 8][:-9] + f"{number:9d}"}
        await queue.submit(NewRequest(ids[number], "tenant", "noop", "0" * 16, POOL, inputs))

    async def look(number: int) -> None:
        await queue.get("tenant", ids[number])

    async def run(number: int) -> None:
        name = f"r{number}"
        (lease,) = (await queue.ask(Ask(name, name, POOL, 1))).leases
        await queue.finish(Finish(lease.key, name, OUTCOME))

    async def store(number: int) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield images[number % 8].encode()

        await storage.put(f"{length}/{number}", "text/plain", chunks())

    submits = await each(submit, count)
    await asyncio.sleep(2 * FRESH_S)
    looks = await each(look, count)
    gc.collect()
    grown = psutil.Process(os.getpid()).memory_info().rss - before
    runs = await each(run, count)
    stores = await each(store, count)
    print(
        f"{length:9d} bytes: submit {submits:7.2f} ms, status {looks:6.2f} ms, lease and finish "
        f"{runs:7.2f} ms; {grown / 2**20:7.1f} MiB more; stored as a file {stores:6.2f} ms",
        flush=True,
    )
    await queue.aclose()
    await database.aclose()


async def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        embedded = EmbeddedPostgres(Path(scratch) / "data", grace_s=0.2)
        conninfo = await embedded.start()
        await migrate(conninfo)
        for length in options.bytes:
            await measure(conninfo, Path(scratch) / "files", length, options.count)
        await embedded.aclose()
        await asyncio.sleep(2.0)  # the server stops before its files go


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--bytes", type=int, nargs="*", default=[1000, 65_000, 1_000_000, 4_000_000]
    )
    parser.add_argument("--count", type=int, default=100)
    asyncio.run(main(parser.parse_args()))
