"""CPU of the calls that a replica and a client make, in the ingress and in PostgreSQL.

    python -m benchmarks.control_costs [--requests 2000] [--slots 8] [--rounds 3] [--reports 400]

The queue runs in this process as in an ingress, over a real PostgreSQL that syncs every commit.
Time is CPU time as the operating system counts it: of this process, and of PostgreSQL with all of
its processes. ``report`` is one call of a replica that renews ``--slots`` leases. Not in it: HTTP,
and the handle or socket over which a replica calls (docs/adr/0013). The lines are the input of
``benchmarks.fleet``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.cpu import seconds_of
from benchmarks.queue_replica import OUTCOME, POOL
from benchmarks.queues import darkroom_queue, process_of_postgres
from serve_app.domain.lease import Ask, Finish, Lease, Report, Work
from serve_app.domain.progress import Progress, Stage
from serve_app.domain.request import NewRequest
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.ingress.services.request_ids import RequestIds
from serve_app.queue.queue import PostgresQueue
from serve_app.telemetry.clock import SystemClock

AT_ONCE = 16
STEPS = 28


class Costs:
    """CPU milliseconds by call: of this process, and of PostgreSQL."""

    def __init__(self, postmaster: int) -> None:
        self._postmaster = psutil.Process(postmaster)
        self._own = psutil.Process(os.getpid())
        self.found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)

    @contextmanager
    def measure(self, call: str, number: int) -> Iterator[None]:
        before = self._seconds()
        yield
        after = self._seconds()
        own, database = (1000 * (b - a) / number for a, b in zip(before, after, strict=True))
        self.found[call].append((own, database))

    def _seconds(self) -> tuple[float, float]:
        server = [self._postmaster, *self._postmaster.children(recursive=True)]
        return seconds_of([self._own]), seconds_of(server)


class Replicas:
    """Replicas that lease all that is queued, report on it, and finish it when told."""

    def __init__(self, queue: PostgresQueue, slots: int) -> None:
        self._queue = queue
        self._slots = slots
        self._held: dict[str, tuple[Lease, ...]] = {}
        self.renewals = 0.0  # of a report, at the mean

    async def lease(self, requests: int) -> None:
        """Lease them all: a poll gets a part of its slots at a time, so that others get some."""
        names = [f"replica-{n}" for n in range(-(-requests // self._slots))]
        self._held = dict.fromkeys(names, ())
        leased = 0
        while leased < requests:
            free = [name for name in names if len(self._held[name]) < self._slots][:AT_ONCE]
            works = await asyncio.gather(*map(self._ask, free))
            for name, work in zip(free, works, strict=True):
                self._held[name] += work.leases
                leased += len(work.leases)

    async def _ask(self, name: str) -> Work:
        keys = tuple(lease.key for lease in self._held[name])
        return await self._queue.ask(Ask(name, name, POOL, self._slots - len(keys), keys))

    async def report(self, reports: int) -> None:
        names = [name for name, leases in self._held.items() if leases]
        self.renewals = sum(map(len, self._held.values())) / len(names)
        for number in range(0, reports, AT_ONCE):
            step = number % STEPS
            chosen = [names[(number + n) % len(names)] for n in range(AT_ONCE)]
            await asyncio.gather(*(self._report(name, step) for name in chosen))

    async def finish(self) -> None:
        leased = [(name, lease) for name, leases in self._held.items() for lease in leases]
        for begin in range(0, len(leased), AT_ONCE):
            await asyncio.gather(
                *(
                    self._queue.finish(Finish(lease.key, name, OUTCOME))
                    for name, lease in leased[begin : begin + AT_ONCE]
                )
            )
        self._held.clear()

    async def _report(self, name: str, step: int) -> None:
        keys = tuple(lease.key for lease in self._held[name])
        progress = tuple((key, Progress(Stage.DENOISING, step, STEPS)) for key in keys)
        await self._queue.report(Report(name, keys, progress, pool=POOL))


async def measure(queue: PostgresQueue, costs: Costs, options: argparse.Namespace) -> None:
    new_id, replicas = RequestIds(SystemClock()), Replicas(queue, options.slots)
    submits = [
        NewRequest(new_id(), "tenant", "noop", "0" * 16, POOL, {"prompt": "a red circle"})
        for _ in range(options.requests)
    ]
    with costs.measure("submit", options.requests):
        for begin in range(0, options.requests, AT_ONCE):
            await asyncio.gather(*map(queue.submit, submits[begin : begin + AT_ONCE]))
    with costs.measure("lease", options.requests):
        await replicas.lease(options.requests)
    with costs.measure("report", options.reports):
        await replicas.report(options.reports)
    with costs.measure("finish", options.requests):
        await replicas.finish()
    print(f"{replicas.renewals:.1f} leases a report", flush=True)
    idle_s = 3.0
    with costs.measure("chores", int(idle_s)):
        await asyncio.sleep(idle_s)


async def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        embedded = EmbeddedPostgres(Path(folder) / "data", grace_s=0.2)
        conninfo = await embedded.start()
        costs = Costs(process_of_postgres(Path(folder)))
        try:
            async with darkroom_queue(conninfo) as queue:
                for _ in range(options.rounds):
                    await measure(queue, costs, options)
        finally:
            await embedded.aclose()
            await asyncio.sleep(2.0)  # the server stops before its files go
    print(f"CPU in ms, medians of {options.rounds} rounds; load {os.getloadavg()[0]:.0f}")
    for call, rounds in costs.found.items():
        own, database = (statistics.median(durations) for durations in zip(*rounds, strict=True))
        unit = "a second" if call == "chores" else "each"
        print(f"{call:8s} ingress {own:6.2f}, database {database:6.2f} {unit}")


def read(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--slots", type=int, default=8, help="leases that a report renews")
    parser.add_argument("--reports", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    asyncio.run(main(read(sys.argv[1:])))
