"""Moves, leases, ends and cancels of the same requests at once: each request ends once, is billed
where it ran, and no budget is exceeded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.domain.executors.fallback import FallbackBudget
from serve_app.domain.lease import Lease
from serve_app.domain.ports import Queue
from serve_app.domain.request import State
from serve_app.queue.store.config import QueueLimits
from serve_app.telemetry.clock import SystemClock
from tests.contract.test_fallbacks_contract import (
    CENT,
    ELSEWHERE,
    EURO,
    HOSTED,
    move_requests,
    plan,
)
from tests.fakes.liveness import FakeLiveness
from tests.fakes.queue import FakeQueue
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES, Background, Ingress
from tests.queue.requests import POOL, TENANT, ask, failure, make_finish, new

REQUESTS, COVERED = 6, 3
BUDGET = FallbackBudget(Decimal(COVERED), "EUR", "month")
LIMITS: QueueLimits = replace(LONG_LEASES, max_failures=1)
ACTS = ("move", "lease", "lease there", "succeed", "fail", "retry", "hand back", "cancel", "expire")
ROUNDS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(ACTS), st.integers(0, REQUESTS - 1)), min_size=1, max_size=6
    ),
    min_size=2,
    max_size=10,
)
USUAL = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


@dataclass
class Walk:
    """Requests that may fall back, and the leases of them that were granted."""

    queue: Queue
    ids: list[str] = field(default_factory=list[str])
    leases: list[Lease] = field(default_factory=list[Lease])
    replicas: int = 0

    async def start(self) -> None:
        limited = plan(cost=Decimal(1), budget=BUDGET)
        for n in range(REQUESTS):
            within = 600.0 if n % 2 else None
            request = new(fallback=limited, price=CENT, end_within_s=within)
            self.ids.append((await self.queue.submit(request)).id)

    async def lease(self, pool: str, slots: int = 1) -> int:
        self.replicas += 1
        capacity = replace(ask(slots, replica=f"r{self.replicas}", pool=pool), wait_s=0.02)
        work = await self.queue.ask(capacity)
        self.leases += work.leases
        return len(work.leases)

    async def act(self, act: str, n: int) -> None:
        key = self.leases[n % len(self.leases)].key if self.leases else None
        if act == "move":
            await move_requests(
                self.queue,
                *[await self.queue.current(TENANT, request_id) for request_id in self.ids],
            )
        elif act in ("lease", "lease there"):
            await self.lease(POOL if act == "lease" else ELSEWHERE)
        elif act == "cancel":
            await self.queue.cancel(TENANT, self.ids[n])
        elif key is not None and act == "hand back":
            await self.queue.hand_back(key, "r", "it drains")
        elif key is not None:
            outcome = {
                "succeed": None,
                "fail": failure("out_of_memory"),
                "retry": failure("out_of_memory", retryable=True),
                "expire": failure("expired"),
            }[act]
            await self.queue.finish(make_finish(key, outcome))

    async def run(self, rounds: Sequence[Sequence[tuple[str, int]]]) -> None:
        await self.start()
        for acts in rounds:
            await asyncio.gather(*(self.act(*act) for act in acts))
        await self.drain()
        await self.check()

    async def drain(self) -> None:
        """End everything that has not ended."""
        async with asyncio.timeout(60):
            while not all(
                [
                    (await self.queue.current(TENANT, request_id)).state.final
                    for request_id in self.ids
                ]
            ):
                await asyncio.gather(*(self.lease(pool, REQUESTS) for pool in (POOL, ELSEWHERE)))
                for grant in self.leases:
                    await self.queue.finish(make_finish(grant.key))

    async def check(self) -> None:
        requests = [await self.queue.current(TENANT, request_id) for request_id in self.ids]
        fell = [request for request in requests if request.fell_back_to]
        assert all(request.fell_back_to == HOSTED for request in fell)
        assert (
            await self.queue.fallbacks.period_cost(requests[0].endpoint, "EUR")
            == len(fell)
            <= COVERED
        )
        now = SystemClock().now()
        edges = [now - timedelta(days=1), now + timedelta(days=1)]
        lines = await self.queue.ledger.usage_totals(TENANT, edges)
        assert sum(line.requests for line in lines) == len(requests)
        done_ = [request for request in requests if request.state is State.SUCCEEDED]
        there = sum(bool(request.fell_back_to) for request in done_)
        owed = there * EURO.amount + (len(done_) - there) * CENT.amount
        assert sum(line.amount for line in lines) == owed


def walk(background: Background, begin: Callable[[], Awaitable[Queue]], examples: int) -> None:
    @settings(USUAL, max_examples=examples)
    @given(rounds=ROUNDS)
    def property_(rounds: Any) -> None:
        async def once() -> None:
            await Walk(await begin()).run(rounds)

        background.run(once())

    property_()


def test_races_over_the_fake() -> None:
    async def begin() -> Queue:
        return FakeQueue(SystemClock(), FakeTerms(), LIMITS, FakeLiveness())

    with Background() as background:
        walk(background, begin, 15)


def test_races_over_postgresql(conninfo: str) -> None:
    ingress = Ingress(conninfo, FakeTerms(), FakeLiveness())
    queues: list[Any] = []

    async def begin() -> Queue:
        if not queues:
            queues.append(await ingress(LIMITS))
        tables = "requests, attempts, events, usage, progress, fallback_budgets"
        await queues[0]._database.rows(f"TRUNCATE {tables}")
        return queues[0]

    with Background() as background:
        try:
            walk(background, begin, 8)
        finally:
            background.run(ingress.aclose())
