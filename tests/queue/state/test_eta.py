"""Expected and actual start and end of requests: the real forecast over a simulated pool, with a
clock that the simulation moves.
"""

from __future__ import annotations

import heapq
import json
import random
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from serve_app.domain.lease import Presence, ReplicaStage
from serve_app.domain.request import Priority, Request, State
from serve_app.queue.fairness.cost_model import SELECT, CostModel
from serve_app.queue.state.eta import MAX_ROUNDS, PRECISION, REBUILD_S, RUNNING, EtaModel, FreeTimes
from serve_app.queue.state.positions import QueuePosition
from serve_app.queue.store.config import QueueLimits
from serve_app.settings.overflow import OverflowPools
from serve_app.telemetry.queue_metrics import QueueMeter
from tests.fakes.clock import FakeClock
from tests.fakes.lane_order import LaneClock, QueuedRequest, charge, in_order, pool_time

POOL = "studio"
TAKES = {"flux": (1.0, 0.10), "sdxl": (0.5, 0.25)}  # fixed seconds, seconds per unit of work
STEPS = {"flux": (4.0, 28.0), "sdxl": (20.0, 30.0, 50.0)}
MEAN_S = 6.3


@dataclass
class One:
    request: Request
    queued: QueuedRequest
    takes_s: float
    asked: float
    began: float | None = None
    ended: float | None = None


class Tables:
    """In-memory tables that the forecast and the cost model read and write."""

    def __init__(self, pool: SimulatedPool) -> None:
        self._pool = pool
        self._costs: dict[tuple[str, str], tuple[Any, ...]] = {}

    async def rows(
        self, sql: str, params: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        if sql == SELECT:
            return [(*key, *sums) for key, sums in self._costs.items()]
        if sql == RUNNING:
            now = self._pool.clock.monotonic()
            return [
                (
                    POOL,
                    job.request.tenant,
                    job.request.endpoint,
                    job.request.work,
                    now - job.began,
                    None,  # its replica is not known
                    *(None, 0, 0, 0.0),  # no progress
                )
                for job in self._pool.running
            ]
        for row in json.loads((params or {})["fits"]):
            endpoint, pool, *sums = row.values()
            self._costs[endpoint, pool] = tuple(sums)
        return []


class SimulatedPool:
    """Two replicas with two slots each, and three tenants. A request takes up to 20 % more or less
    than expected.
    """

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311 nothing secret
        self.clock = FakeClock()
        self._begin = self.clock.monotonic()
        tables = Tables(self)
        self.costs = CostModel(tables)  # type: ignore[arg-type]
        self.registry = CollectorRegistry()
        metrics = QueueMeter(self.registry)
        self.forecast = EtaModel(tables, self.clock, QueueLimits(), self.costs, metrics)  # type: ignore[arg-type]
        self.lanes = {tenant: LaneClock() for tenant in ("ann", "bob", "eve")}
        self.waiting: dict[str, One] = {}
        self.running: list[One] = []
        self.ready: dict[str, int] = {}
        self.starting: set[str] = set()
        self.estimates: list[tuple[One, float, float]] = []  # when, seconds to the end
        self._events: list[tuple[float, int, str, Any]] = []
        self._count = 0

    def at(self, when: float, what: str, value: Any = None) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what, value))

    def arrivals(self, begin: float, end: float, per_s: float) -> None:
        now = begin
        while (now := now + self.dice.expovariate(per_s)) < end:
            self.at(now, "submit")

    @property
    def now(self) -> float:
        return self.clock.monotonic() - self._begin

    async def run(self, until: float) -> None:
        for second in range(int(self.now), int(until)):
            self.at(float(second), "look")
        while self._events and self._events[0][0] <= until:
            when, _, what, value = heapq.heappop(self._events)
            self.clock.advance(max(0.0, when - self.now))
            if what == "submit":
                self.submit()
            elif what == "end":
                self.end(value)
            elif what == "starting":
                self.starting.add(value)
                self.present(value, ReplicaStage.STARTING)
            elif what == "ready":
                self.starting.discard(value)
                self.ready[value] = 2
                self.present(value, ReplicaStage.READY)
            else:
                await self.look()
            self.lease()

    def presence(self, name: str, stage: ReplicaStage) -> Presence:
        return Presence(name, name, POOL, stage)

    def present(self, name: str, stage: ReplicaStage) -> None:
        self.forecast.replica_seen(self.presence(name, stage), 2)

    async def look(self) -> None:
        await self.costs.refresh()
        there = [(self.presence(name, ReplicaStage.READY), 2) for name in self.ready]
        there += [(self.presence(name, ReplicaStage.STARTING), 1) for name in self.starting]
        await self.forecast.refresh(there)
        if round(self.clock.monotonic()) % 3 == 0:
            for job in self.waiting.values():
                self.estimate(job)

    def submit(self) -> None:
        self._count += 1
        tenant = self.dice.choice(list(self.lanes))
        endpoint = self.dice.choice(list(TAKES))
        work = self.dice.choice(STEPS[endpoint])
        fixed, rate = TAKES[endpoint]
        id_ = f"r{self._count}"
        now = self.clock.now()
        request = Request(
            id_, tenant, endpoint, POOL, State.QUEUED, {}, Priority.NORMAL, 0, 0, now, work=work
        )
        expected = self.costs.expected_s(endpoint, POOL, work)
        place = QueuedRequest(id_, tenant, endpoint, now, self._count, expected)
        takes_s = (fixed + rate * work) * self.dice.uniform(0.8, 1.2)
        job = self.waiting[id_] = One(request, place, takes_s, self.clock.monotonic())
        self.estimate(job)

    def lease(self) -> None:
        while self.waiting and len(self.running) < sum(self.ready.values()):
            start = in_order(self.lanes, [waiter.queued for waiter in self.waiting.values()])[0]
            charge(self.lanes[start.queued.tenant], start, pool_time(self.lanes.values()))
            job = self.waiting.pop(start.queued.id)
            job.began = self.clock.monotonic()
            self.running.append(job)
            self.at(self.now + job.takes_s, "end", job)

    def end(self, job: One) -> None:
        self.running.remove(job)
        job.ended = self.clock.monotonic()
        request = job.request
        self.costs.observe(request.endpoint, POOL, request.work, job.takes_s)
        self.lanes[request.tenant].vtime += job.takes_s - job.queued.expected_s

    def estimate(self, job: One) -> None:
        order = in_order(self.lanes, [waiter.queued for waiter in self.waiting.values()])
        ahead = [start.queued.id for start in order]
        before = [self.waiting[id_].request for id_ in ahead[: ahead.index(job.request.id)]]
        ahead_s = sum(self.costs.expected_s(r.endpoint, POOL, r.work) for r in before)
        start_s = self.forecast.until_start_s(job.request, QueuePosition(len(before), ahead_s))
        takes_s = self.forecast.until_end_s(job.request)
        if start_s is None or takes_s is None:
            return
        assert start_s >= 0
        assert takes_s > 0
        self.estimates.append((job, self.clock.monotonic(), start_s + takes_s))

    def median_error(self, begin: float, end: float) -> float:
        """Median relative error of the time to the end, as forecast between ``begin`` and
        ``end``.
        """
        errors = [
            abs(estimate_s - (job.ended - when)) / (job.ended - when)
            for job, when, estimate_s in self.estimates
            if job.ended is not None and begin <= when - self._begin < end
        ]
        assert len(errors) > 50
        return statistics.median(errors)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_on_a_steady_load_the_median_error_is_under_a_quarter(seed: int) -> None:
    pool = SimulatedPool(seed)
    for name in ("a", "b"):
        pool.at(0.0, "ready", name)
    pool.arrivals(0.0, 600.0, per_s=0.9 * 4 / MEAN_S)
    await pool.run(700.0)
    assert pool.median_error(60.0, 600.0) < 0.25


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_in_a_five_fold_burst_it_is_under_two_fifths(seed: int) -> None:
    pool = SimulatedPool(seed)
    for name in ("a", "b"):
        pool.at(0.0, "ready", name)
    steady = 0.6 * 4 / MEAN_S
    pool.arrivals(0.0, 500.0, per_s=steady)
    pool.arrivals(200.0, 260.0, per_s=4 * steady)
    await pool.run(900.0)
    assert pool.median_error(200.0, 320.0) < 0.4


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_during_a_cold_start_it_is_under_two_fifths(seed: int) -> None:
    pool = SimulatedPool(seed)
    # A replica has started before, and a request has ended.
    pool.at(0.0, "starting", "old")
    pool.at(40.0, "ready", "old")
    pool.arrivals(0.0, 120.0, per_s=1.2 / MEAN_S)
    await pool.run(200.0)
    pool.ready.clear()
    pool.estimates.clear()
    pool.starting.clear()
    begin = pool.now
    pool.at(begin + 1.0, "starting", "new")
    pool.at(begin + 1.0 + 40.0 * pool.dice.uniform(0.85, 1.15), "ready", "new")
    pool.arrivals(begin + 2.0, begin + 60.0, per_s=2.0 / MEAN_S)
    await pool.run(begin + 200.0)
    assert pool.median_error(begin, begin + 42.0) < 0.4


AHEAD, EACH_S = st.integers(0, 300), st.floats(0.1, 20.0)
FREE_IN_S = st.lists(st.floats(0.0, 60.0), min_size=1, max_size=6)


def simulate_start(ahead: int, each_s: float, free_in_s: list[float]) -> float:
    """Start of a request behind ``ahead`` others, request by request."""
    slots = [*free_in_s]
    heapq.heapify(slots)
    for _ in range(ahead):
        heapq.heapreplace(slots, slots[0] + each_s)
    return slots[0]


@given(AHEAD, EACH_S, FREE_IN_S)
def test_the_more_goes_before_the_later_it_starts(
    ahead: int, each_s: float, free_in_s: list[float]
) -> None:
    free = FreeTimes(free_in_s)
    sooner = free.until_start_s(ahead, ahead * each_s)
    more = ahead + len(free_in_s)
    later = free.until_start_s(more, more * each_s)
    assert sooner is not None
    assert later is not None
    assert min(free_in_s) <= sooner <= later + 2 * PRECISION * each_s


@given(AHEAD, EACH_S, FREE_IN_S)
def test_an_estimate_is_what_a_simulation_of_all_requests_ahead_finds(
    ahead: int, each_s: float, free_in_s: list[float]
) -> None:
    estimate = FreeTimes(free_in_s).until_start_s(ahead, ahead * each_s)
    rounds = (max(free_in_s) - min(free_in_s)) / each_s
    near = 2 * PRECISION * each_s if rounds <= MAX_ROUNDS else each_s
    assert estimate == pytest.approx(simulate_start(ahead, each_s, free_in_s), abs=near, rel=1e-9)


def test_without_a_slot_there_is_no_estimate() -> None:
    assert FreeTimes([]).until_start_s(0, 0.0) is None


async def test_statuses_do_not_look_at_each_running_request_and_replica() -> None:
    pool = SimulatedPool(1)
    for name in ("a", "b", "c"):
        pool.at(0.0, "ready", name)
    pool.arrivals(0.0, 60.0, per_s=2.0)
    await pool.run(60.0)
    looked_up = 0
    inner = pool.costs.expected_s

    def expected_s(endpoint: str, pool: str, work: float) -> float:
        nonlocal looked_up
        looked_up += 1
        return inner(endpoint, pool, work)

    pool.costs.expected_s = expected_s  # type: ignore[method-assign]
    (job, *_) = pool.waiting.values()
    for position in range(100):
        assert pool.forecast.until_start_s(job.request, QueuePosition(position, 6.0 * position))
    assert looked_up <= len(pool.running)


async def test_a_replica_that_becomes_ready_shortens_the_estimate_at_once() -> None:
    pool = SimulatedPool(1)
    pool.at(0.0, "ready", "a")
    pool.arrivals(0.0, 60.0, per_s=2.0)
    await pool.run(60.0)
    (job, *_) = pool.waiting.values()
    place = QueuePosition(20, 120.0)
    alone = pool.forecast.until_start_s(job.request, place)
    pool.clock.advance(REBUILD_S)
    pool.present("b", ReplicaStage.READY)
    shared = pool.forecast.until_start_s(job.request, place)
    assert alone is not None
    assert shared is not None
    assert shared < 0.8 * alone


async def test_slots_of_a_slower_class_are_counted_by_what_they_get_done() -> None:
    """Two slots of the first pool, and two of one that takes twice as long."""
    pool = SimulatedPool(1)
    limits = QueueLimits(overflow=OverflowPools({"slow": POOL}))
    costs = CostModel(Tables(pool), limits)  # type: ignore[arg-type]
    metrics = QueueMeter(CollectorRegistry())
    eta = EtaModel(Tables(pool), pool.clock, limits, costs, metrics)  # type: ignore[arg-type]
    for where, seconds in ((POOL, 10.0), ("slow", 20.0)):
        costs.observe("one", where, 1.0, seconds)
    await costs.refresh()
    for name, where in (("r", POOL), ("s", "slow")):
        eta.replica_seen(Presence(name, name, where, ReplicaStage.READY), 2)
    now = pool.clock.now()
    request = Request(
        "id", "ann", "one", POOL, State.QUEUED, {}, Priority.NORMAL, 0, 0, now, work=1.0
    )
    # 20 requests of 10 s: the four slots do 2 × 0.1 + 2 × 0.05 of them a second.
    starts_s = eta.until_start_s(request, QueuePosition(20, 200.0))
    assert starts_s == pytest.approx(20 / 0.3, rel=0.2)
    assert eta.until_end_s(request) == pytest.approx(4 / 0.3)
    running = replace(request, state=State.RUNNING, replica_id="s")
    assert eta.until_end_s(running, 5.0) == pytest.approx(15.0)
    assert eta.until_end_s(replace(running, replica_id="r"), 5.0) == pytest.approx(5.0)
