"""Expected and actual start and end of requests: the whole real queue, on a database with the
test's clock.

The periodic tasks run when the test says so. Replicas are simulated, and take as long as the test's
random numbers say. So nothing here depends on the speed of the machine.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from serve_app.domain.lease import Ask, LeaseKey, Presence, ReplicaStage, Report, Verdict
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.progress import Progress, Stage
from serve_app.domain.request import Request, WaitReason
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import migrate
from tests.fakes.clock import FakeClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import new_database
from tests.queue.requests import POOL, make_finish, new

TENANTS = ("ann", "bob", "eve")
TAKES = {"fal-ai/flux/dev": (1.0, 0.10), "fal-ai/fast-sdxl": (0.5, 0.25)}  # s, s per unit of work
WORK = {"fal-ai/flux/dev": (4.0, 28.0), "fal-ai/fast-sdxl": (20.0, 30.0, 50.0)}
MEAN_S = 6.3
SLOTS = 2
LOOK_S = 2.0
GIGABYTES = 34
PATIENT = QueueLimits(lease_s=1e6, first_lease_s=1e6, ask_wait_s=300.0, check_interval_s=1e6)
OWN_TIME = """
CREATE SCHEMA own;
CREATE TABLE own.clock (at timestamptz NOT NULL);
INSERT INTO own.clock VALUES ('2030-01-01T00:00:00Z');
CREATE FUNCTION own.now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM own.clock';
"""


@dataclass
class One:
    request: Request
    takes_s: float
    leased: float = 0.0
    ended: float = 0.0


@dataclass
class Replica:
    name: str
    ready: bool = False
    jobs: dict[LeaseKey, One] = field(default_factory=dict[LeaseKey, One])


class PacedQueue:
    """A queue with its clients and replicas. Seconds are those of the test's clock."""

    def __init__(self, queue: PostgresQueue, clock: FakeClock, seed: int) -> None:
        self.queue = queue
        self.clock = clock
        self.dice = random.Random(seed)  # noqa: S311 nothing secret
        self.waiting: dict[str, One] = {}
        self.replicas: dict[str, Replica] = {}
        self.estimates: list[tuple[One, float, float]] = []  # when, seconds to the end
        self.reasons: set[WaitReason] = set()
        # start and end of the download that begins now
        self.downloads: tuple[float, float] = (0.0, 0.0)
        self._begin = clock.monotonic()
        self._events: list[tuple[float, int, Callable[[], Awaitable[object]]]] = []
        self._count = 0

    @property
    def now(self) -> float:
        return self.clock.monotonic() - self._begin

    def at(self, when: float, act: Callable[[], Awaitable[object]]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, act))

    def arrivals(self, begin: float, end: float, per_s: float) -> None:
        now = begin
        while (now := now + self.dice.expovariate(per_s)) < end:
            self.at(now, self.submit)

    async def run(self, until: float) -> None:
        look = self.now
        while (look := look + LOOK_S) < until:
            self.at(look, self.look)
        while self._events and self._events[0][0] <= until:
            when, _, act = heapq.heappop(self._events)
            await self._pass(max(0.0, when - self.now))
            await act()
            await self._lease()

    async def submit(self) -> None:
        endpoint = self.dice.choice(sorted(TAKES))
        work = self.dice.choice(WORK[endpoint])
        fixed, rate = TAKES[endpoint]
        takes_s = (fixed + rate * work) * self.dice.uniform(0.8, 1.2)
        tenant = self.dice.choice(TENANTS)
        wish = new(tenant=tenant, endpoint=endpoint, work=work)
        job = One(await self.queue.submit(wish), takes_s)
        self.waiting[job.request.id] = job
        await self._estimate(job)

    async def look(self) -> None:
        """Run the tasks that an ingress runs each second."""
        parts, state = self.queue.parts, self.queue.parts.state
        for replica in self.replicas.values():
            await self._say(replica)
            await self._report(replica)
        for chore in (
            state.replicas.flush,
            state.stats.count,
            state.stats.refresh,
            parts.reaper.sweep_lanes,
            state.costs.refresh,
            state.charges.flush,
        ):
            await chore()
        for job in self.waiting.values():
            await self._estimate(job)

    async def start(self, name: str) -> None:
        replica = self.replicas[name] = Replica(name)
        await self._say(replica)

    async def make_ready(self, name: str) -> None:
        self.replicas[name].ready = True
        await self._say(self.replicas[name])

    async def remove(self, name: str) -> None:
        """Remove a replica that has no more work."""
        assert not self.replicas.pop(name).jobs
        await self.queue.announce(_presence(name, ReplicaStage.DRAINING))
        await self.queue.parts.state.replicas.remove_dead(frozenset({name}))

    def median_error(self, begin: float, end: float) -> float:
        """Median relative error of the time to the end, as forecast between ``begin`` and
        ``end``.
        """
        errors = [
            abs(estimate_s - (job.ended - when)) / (job.ended - when)
            for job, when, estimate_s in self.estimates
            if job.ended and begin <= when < end
        ]
        assert len(errors) > 40
        return statistics.median(errors)

    async def _pass(self, seconds: float) -> None:
        self.clock.advance(seconds)
        at = {"at": self.clock.now()}
        await self.queue._database.rows("UPDATE own.clock SET at = %(at)s", at)

    async def _say(self, replica: Replica) -> None:
        if not replica.ready:
            await self.queue.announce(_presence(replica.name, ReplicaStage.STARTING))
            return
        free = SLOTS - len(replica.jobs)
        asking = asyncio.create_task(self.queue.ask(self._ask(replica, 0)))
        await asyncio.sleep(0)  # It is recorded at once; the poll for signals waits here.
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        assert free >= 0

    async def _report(self, replica: Replica) -> None:
        begin, end = self.downloads
        if not begin < self.now < end or not replica.jobs:
            return
        done = int(GIGABYTES * 1e9 * (self.now - begin) / (end - begin))
        rate = done / (self.now - begin) * self.dice.uniform(0.8, 1.2)
        progress = Progress(Stage.DOWNLOADING, done, int(GIGABYTES * 1e9), rate)
        lease_keys = tuple(replica.jobs)
        await self.queue.report(
            Report(replica.name, lease_keys, tuple((h, progress) for h in lease_keys))
        )
        for job in replica.jobs.values():
            ends_at = await self.queue.ends_at(
                await self.queue.get(job.request.tenant, job.request.id)
            )
            assert ends_at is not None
            assert ends_at >= self.clock.now()
            self.estimates.append((job, self.now, (ends_at - self.clock.now()).total_seconds()))

    async def _lease(self) -> None:
        """Let each replica with a free slot poll while requests are waiting."""
        for replica in self.replicas.values():
            while replica.ready and self.waiting and len(replica.jobs) < SLOTS:
                free = min(SLOTS - len(replica.jobs), len(self.waiting))
                for granted in (await self.queue.ask(self._ask(replica, free))).leases:
                    job = self.waiting.pop(granted.request_id)
                    replica.jobs[granted.key] = job
                    job.leased = self.now
                    begins = max(self.now, self.downloads[1])
                    self.at(begins + job.takes_s, _ending(self, replica, granted.key))

    def _ask(self, replica: Replica, free: int) -> Ask:
        lease_keys = tuple(replica.jobs)
        return Ask(replica.name, replica.name, POOL, free, lease_keys)

    async def finish(self, replica: Replica, lease_key: LeaseKey) -> None:
        job = replica.jobs.pop(lease_key)
        outcome = Outcome(output={}, usage=Usage(self.now - job.leased, 4, 1.0))
        verdict = await self.queue.finish(make_finish(lease_key, outcome, replica.name))
        assert verdict is Verdict.ACCEPTED
        job.ended = self.now

    async def _estimate(self, job: One) -> None:
        waiting = await self.queue.waiting(job.request)
        self.reasons.add(waiting.reason)
        if waiting.starts_at is None or waiting.ends_at is None:
            return
        assert self.clock.now() <= waiting.starts_at <= waiting.ends_at
        self.estimates.append((job, self.now, (waiting.ends_at - self.clock.now()).total_seconds()))


def _ending(
    paced: PacedQueue, replica: Replica, lease_key: LeaseKey
) -> Callable[[], Awaitable[None]]:
    return lambda: paced.finish(replica, lease_key)


def _presence(name: str, stage: ReplicaStage) -> Presence:
    return Presence(name, name, POOL, stage, slots=SLOTS)


@pytest.fixture
async def make_queue(
    server: str, terms: FakeTerms, liveness: FakeLiveness
) -> AsyncIterator[Callable[[int], PacedQueue]]:
    async with new_database(server, "paced") as plain:
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(OWN_TIME.encode())
        # A schema before PostgreSQL's own: it replaces `now()`.
        own = make_conninfo(plain, options="-c search_path=public,own,pg_catalog")
        await migrate(own)
        database = Database(own)
        await database.start()
        clock = FakeClock()
        queue = assemble(database, clock, terms, PATIENT, liveness, "ingress-1")
        yield lambda seed: PacedQueue(queue, clock, seed)
        await queue.aclose()
        await database.aclose()


async def with_two_replicas(paced: PacedQueue) -> None:
    for name in ("a", "b"):
        await paced.start(name)
        await paced.make_ready(name)


async def test_on_a_steady_load_the_median_error_is_under_a_quarter(
    make_queue: Callable[[int], PacedQueue],
) -> None:
    pool = make_queue(1)
    await with_two_replicas(pool)
    pool.arrivals(0.0, 200.0, per_s=0.9 * 2 * SLOTS / MEAN_S)
    await pool.run(260.0)
    assert pool.reasons >= {WaitReason.BUSY}
    assert pool.median_error(40.0, 200.0) < 0.25


@pytest.mark.long
async def test_in_a_five_fold_burst_it_is_under_two_fifths(
    make_queue: Callable[[int], PacedQueue],
) -> None:
    pool = make_queue(2)
    await with_two_replicas(pool)
    steady = 0.6 * 2 * SLOTS / MEAN_S
    pool.arrivals(0.0, 160.0, per_s=steady)
    pool.arrivals(60.0, 90.0, per_s=4 * steady)
    await pool.run(260.0)
    assert pool.median_error(60.0, 110.0) < 0.4


@pytest.mark.long
async def test_during_a_cold_start_it_is_under_two_fifths(
    make_queue: Callable[[int], PacedQueue],
) -> None:
    pool = make_queue(1)
    # A replica has started before, and a request has ended.
    pool.at(0.0, lambda: pool.start("old"))
    pool.at(40.0, lambda: pool.make_ready("old"))
    pool.arrivals(0.0, 90.0, per_s=1.2 / MEAN_S)
    await pool.run(150.0)
    await pool.remove("old")
    pool.estimates.clear()
    pool.reasons.clear()
    begin = pool.now
    pool.at(begin + 1.0, lambda: pool.start("new"))
    takes_s = 40.0 * pool.dice.uniform(0.85, 1.15)
    pool.at(begin + 1.0 + takes_s, lambda: pool.make_ready("new"))
    pool.arrivals(begin + 2.0, begin + 60.0, per_s=2.0 / MEAN_S)
    await pool.run(begin + 180.0)
    assert WaitReason.COLD_START in pool.reasons
    assert pool.median_error(begin, begin + 42.0) < 0.4


@pytest.mark.long
async def test_while_weights_are_downloaded_it_is_under_two_fifths(
    make_queue: Callable[[int], PacedQueue],
) -> None:
    pool = make_queue(4)
    await with_two_replicas(pool)
    pool.arrivals(0.0, 60.0, per_s=1.2 / MEAN_S)
    await pool.run(100.0)
    pool.estimates.clear()
    pool.downloads = (pool.now, pool.now + 60.0)
    pool.arrivals(pool.now, pool.now + 60.0, per_s=1.5 / MEAN_S)
    begin = pool.now
    await pool.run(begin + 180.0)
    assert pool.median_error(begin + LOOK_S, begin + 62.0) < 0.4
