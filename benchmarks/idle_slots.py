"""Share of slot time that is idle while requests wait, with one, four and eight ingress processes.

    python -m benchmarks.idle_slots [--ingresses 1 4 8] [--shapes 8x1 4x2] [--tenants 1200]
        [--work drained resubmitted] [--hold 0.05 0.2] [--seconds 10] [--rounds 3]

Each ingress is a process with a queue of its own, as an ingress replica has it, on one embedded
PostgreSQL that syncs every commit. A shape is replicas × slots, so 8x1 and 4x2 have eight slots
each; replica N polls ingress N modulo the number of ingresses, so with eight ingresses and four
replicas, half of the ingresses have none. A replica does as the real one: one poll is open while a
slot is free, a request holds its slot for a random time between the two of ``--hold`` seconds, and
the next poll goes out with the finish, not after it.

Every tenant has one request in the queue. ``drained``: nothing is submitted while it is measured,
so nothing but the queue itself wakes a poll. ``resubmitted``: each ingress has clients that wait
for the end of their request, at whichever ingress it ran, and submit the next one.

Idle is the time in which a slot holds no request, in percent of the time of all slots, from one
second after the first poll until the seconds have passed or a tenth of the tenants have requests
left in the queue. ``long`` is the part of it in waits of more than 0.1 s, which no turnaround
takes on a quiet machine: polls that overlook what is queued took 38 % of the time once, with eight
ingresses. The rest is the turnaround of poll and lease, of which the median and the 99th
percentile follow. ``of 1``: idle time against that with one ingress, of the same shape and work in
this run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.queue_replica import OUTCOME, POOL
from benchmarks.queues import CLEAR, darkroom_queue
from serve_app.domain.lease import Ask, Finish, Lease, Verdict
from serve_app.domain.request import NewRequest, State
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.ingress.services.request_ids import RequestIds
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.store.migrations import migrate
from serve_app.telemetry.clock import SystemClock
from tests.cluster.darkroom import ROOT, clean_environment

SETTLE_S = 1.0  # until all slots are taken for the first time
LOOK_S = 0.2
LONG_S = 0.1
WORK = ("drained", "resubmitted")
COUNT = "SELECT count(*) FROM requests WHERE state = 'queued'"
SUBMITS_AT_ONCE = 16


@dataclass(frozen=True)
class Case:
    work: str
    replicas: int
    slots: int  # of each replica
    ingresses: int


@dataclass(frozen=True)
class Idle:
    """Figures of a case. ``share`` and ``long_share``: of the time of all slots."""

    share: float
    long_share: float
    waits_ms: Sequence[float]  # that ended while it was measured
    rate: float  # requests a second


# An ingress process


class SlowReplica:
    """Holds each request for a while, and notes when its slots were taken."""

    def __init__(self, queue: PostgresQueue, name: str, slots: int, hold_s: Sequence[float]):
        self._queue = queue
        self._name = name
        self._hold_s = hold_s
        self._free = list(range(slots))
        self._room = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self.began: dict[int, float] = {}  # by slot, of a request that still runs
        self.held: list[tuple[int, float, float]] = []  # slot, first and last moment

    async def run(self) -> None:
        while True:
            if not self._free:
                self._room.clear()
                await self._room.wait()
            ask = Ask(self._name, self._name, POOL, len(self._free))
            for lease in (await self._queue.ask(ask)).leases:
                slot = self._free.pop()
                self.began[slot] = time.monotonic()
                task = asyncio.create_task(self._hold(slot, lease))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _hold(self, slot: int, lease: Lease) -> None:
        await asyncio.sleep(random.uniform(*self._hold_s))
        self.held.append((slot, self.began.pop(slot), time.monotonic()))
        self._free.append(slot)
        self._room.set()
        verdict = await self._queue.finish(Finish(lease.key, self._name, OUTCOME))
        if verdict is not Verdict.ACCEPTED:
            raise RuntimeError(f"The finish of {lease.request_id} was {verdict}.")

    async def aclose(self) -> None:
        """Let running requests end. Raises the error of one whose finish failed."""
        await asyncio.gather(*self._running)

    def slot_spans(self) -> list[tuple[int, float, float]]:
        now = time.monotonic()
        return [*self.held, *((slot, began, now) for slot, began in self.began.items())]


class Clients:
    """Tenants with one request each."""

    def __init__(self, queue: PostgresQueue, tenants: Sequence[str]) -> None:
        self._queue = queue
        self._tenants = tenants
        self._new_id = RequestIds(SystemClock())
        self._submitting = asyncio.Semaphore(SUBMITS_AT_ONCE)
        self._sent: dict[str, str] = {}

    async def submit_all(self) -> None:
        await asyncio.gather(*map(self._submit, self._tenants))

    async def go_on(self) -> None:
        """Submit the next request of each tenant as soon as its last one has ended."""
        await asyncio.gather(*map(self._go_on, self._tenants))

    async def _submit(self, tenant: str) -> None:
        async with self._submitting:
            id_ = self._sent[tenant] = self._new_id()
            await self._queue.submit(
                NewRequest(id_, tenant, "noop", "0" * 16, POOL, {"prompt": "a red circle"})
            )

    async def _go_on(self, tenant: str) -> None:
        while True:
            request = await self._queue.wait(tenant, self._sent[tenant], 60.0)
            if request.state is State.SUCCEEDED:
                await self._submit(tenant)
            elif request.state.final:
                raise RuntimeError(f"The request {request.id} is {request.state}.")


async def ingress(conninfo: str, number: int, case: Case, tenants: int, hold: list[float]) -> None:
    """Main function of an ingress process. It is ready when its tenants' requests are queued."""
    own = [f"tenant-{n}" for n in range(tenants) if n % case.ingresses == number]
    names = [f"r{n}" for n in range(case.replicas) if n % case.ingresses == number]
    async with darkroom_queue(conninfo, f"ingress-{number}") as queue:
        clients = Clients(queue, own)
        await clients.submit_all()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        replicas = [SlowReplica(queue, name, case.slots, hold) for name in names]
        tasks = [asyncio.create_task(replica.run()) for replica in replicas]
        if case.work == "resubmitted":
            tasks.append(asyncio.create_task(clients.go_on()))
        stop = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()  # its error
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        taken = [replica.slot_spans() for replica in replicas]
        await asyncio.gather(*(replica.aclose() for replica in replicas))
        print(json.dumps(taken), flush=True)


# The measurement


class Ingresses:
    """Processes of a case."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        self._processes = processes

    @classmethod
    async def start(cls, conninfo: str, case: Case, options: argparse.Namespace) -> Ingresses:
        shape = (case.replicas, case.slots, case.ingresses)
        numbers = [*map(str, (*shape, options.tenants, *options.hold))]
        processes = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.idle_slots"),
                *("--ingress", conninfo, str(n), case.work, *numbers),
                cwd=ROOT,
                env=clean_environment(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=2**26,
            )
            for n in range(case.ingresses)
        ]
        return cls(processes)

    async def lines(self) -> list[bytes]:
        """The next line of each. Raises ``RuntimeError`` if one has ended."""
        outputs = await asyncio.gather(*(_line(process) for process in self._processes))
        if not all(outputs):
            raise RuntimeError("An ingress process has ended; its error is above.")
        return outputs

    async def tell(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"go on\n")
            await process.stdin.drain()

    async def aclose(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    return await process.stdout.readline()


async def measure_case(
    connection: psycopg.AsyncConnection, conninfo: str, case: Case, options: argparse.Namespace
) -> Idle:
    """Figures of a case, in an empty queue."""
    await connection.execute(CLEAR)
    ingresses = await Ingresses.start(conninfo, case, options)
    try:
        await ingresses.lines()
        await ingresses.tell()
        await asyncio.sleep(SETTLE_S)
        first, last = await _while_work_waits(connection, options)
        await ingresses.tell()
        taken = [spans for line in await ingresses.lines() for spans in json.loads(line)]
    finally:
        await ingresses.aclose()
    return idle_time(taken, case.slots, first, last)


async def _while_work_waits(
    connection: psycopg.AsyncConnection, options: argparse.Namespace
) -> tuple[float, float]:
    """First and last moment of the measurement: at each, and between them, requests waited."""
    first = last = 0.0
    while not first or last < first + options.seconds:
        row = await (await connection.execute(COUNT)).fetchone()
        if row is None or row[0] < max(1, options.tenants // 10):
            break
        last = time.monotonic()
        first = first or last
        await asyncio.sleep(LOOK_S)
    if last - first < min(1.0, options.seconds / 2):
        raise RuntimeError("The queue was empty too soon: take more tenants, or longer --hold.")
    return first, last


def idle_time(
    taken: Sequence[Sequence[Sequence[float]]], slots: int, first: float, last: float
) -> Idle:
    """Figures from what each replica says: slot, first and last moment of each request. All
    processes of a machine share the clock."""
    idle, waits, ended = list[float](), list[float](), 0
    for spans in taken:
        by_slot: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
        for slot, begin, end in spans:
            if begin < last:
                by_slot[int(slot)].append((begin, end))
            ended += first <= end < last
        for slot in range(slots):
            free_since = first
            for begin, end in sorted(by_slot[slot]):
                if begin >= first:
                    idle.append(begin - free_since)
                    if free_since > first:
                        waits.append(begin - free_since)
                free_since = max(free_since, end)
            idle.append(max(0.0, last - free_since))
    whole = len(taken) * slots * (last - first)
    return Idle(
        share=sum(idle) / whole,
        long_share=sum(duration for duration in idle if duration > LONG_S) / whole,
        waits_ms=[1000 * wait for wait in waits],
        rate=ended / (last - first),
    )


def show(case: Case, rounds: Sequence[Idle], of_one: float | None) -> None:
    waits = sorted(wait for turn in rounds for wait in turn.waits_ms)
    cuts = statistics.quantiles(waits, n=100) if len(waits) > 1 else [0.0] * 99
    shape = f"{case.replicas}x{case.slots}"
    share = statistics.median(turn.share for turn in rounds)
    long_share = statistics.median(turn.long_share for turn in rounds)
    rate = statistics.median(turn.rate for turn in rounds)
    ratio = f"{share / of_one:6.2f}" if of_one else ""
    print(
        f"{case.work:12} {shape} at {case.ingresses}: {rate:5.0f}/s, idle {share:6.1%}, "
        f"long {long_share:6.1%}, wait p50 {cuts[49]:6.1f} p99 {cuts[98]:7.1f} "
        f"longest {max(waits, default=0.0):7.1f} ms, load {os.getloadavg()[0]:4.1f}, "
        f"of 1 {ratio:>6}",
        flush=True,
    )


async def main(options: argparse.Namespace) -> None:
    cases = [
        Case(work, *map(int, shape.split("x")), ingresses)
        for work in options.work
        for shape in options.shapes
        for ingresses in options.ingresses
    ]
    measurements: defaultdict[Case, list[Idle]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        embedded = EmbeddedPostgres(scratch / "data", grace_s=0.2)
        conninfo = await embedded.start()
        stack.push_async_callback(asyncio.sleep, 2.0)  # the server stops before its files go
        stack.push_async_callback(embedded.aclose)
        await migrate(conninfo)
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        stack.push_async_callback(connection.close)
        for number in range(options.rounds):
            for case in cases:
                measurements[case].append(await measure_case(connection, conninfo, case, options))
                print(f"round {number + 1} ", end="")
                show(case, measurements[case][-1:], None)
    print(f"\nMedians of {options.rounds} rounds of {options.seconds:g} s:")
    shares = {
        case: statistics.median(turn.share for turn in rounds)
        for case, rounds in measurements.items()
    }
    for case, rounds in measurements.items():
        baseline = shares.get(Case(case.work, case.replicas, case.slots, 1))
        show(case, rounds, baseline)


def read(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--ingresses", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--shapes", nargs="+", default=["8x1", "4x2"], help="replicas x slots")
    parser.add_argument("--tenants", type=int, default=1200)
    parser.add_argument("--work", nargs="+", choices=WORK, default=WORK)
    parser.add_argument("--hold", type=float, nargs=2, default=[0.05, 0.2], help="seconds")
    parser.add_argument("--seconds", type=float, default=10.0, help="longest measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ingress", nargs=9, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = read(sys.argv[1:])
    if options.ingress is not None:
        where, index, kind, *rest = options.ingress
        *shape, tenants_ = map(int, rest[:4])
        asyncio.run(
            ingress(where, int(index), Case(kind, *shape), tenants_, [*map(float, rest[4:])])
        )
    else:
        asyncio.run(main(options))
