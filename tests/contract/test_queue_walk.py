"""A random walk of operations, checked against invariants.

The same walk runs over the fake and over PostgreSQL. Time does not pass in it: leases do not run
out by themselves, and replicas die when the walk says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from serve_app.domain.billing.price import Price, PriceUnit
from serve_app.domain.lease import LeaseKey, Verdict
from serve_app.domain.ports import Queue
from serve_app.domain.request import NONE, CancelVerdict, Cause, Priority, Request, Retries, State
from serve_app.queue.store.config import QueueLimits
from serve_app.telemetry.clock import SystemClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.queue import FakeQueue
from tests.fakes.terms import FakeTerms
from tests.queue.database import Background, Ingress
from tests.queue.requests import TENANT, ask, failure, make_finish, new, report

LIMITS = QueueLimits(
    lease_s=600.0, first_lease_s=600.0, ask_wait_s=10.0, check_interval_s=0.05, max_failures=2
)
POOLS = ("studio", "other")
CENT = Price(PriceUnit.REQUEST, Decimal("0.01"))

WALKS = settings(
    max_examples=12,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


class Walk(RuleBasedStateMachine):
    """The state machine. The test that runs it sets ``begin`` and ``end``."""

    background: Background
    begin: Callable[[FakeLiveness], Any]
    end: Callable[[], Any]

    submitted = Bundle("submitted")
    leased = Bundle("leased")

    def __init__(self) -> None:
        super().__init__()
        self.liveness = FakeLiveness()
        self.queue: Queue = self.background.run(type(self).begin(self.liveness))
        self.pools: dict[str, str] = {}
        self.holder: dict[str, LeaseKey] = {}  # by request: the attempt that may write
        self.confirmed: set[LeaseKey] = set()
        self.accepted: dict[LeaseKey, str] = {}  # by attempt: the act that ended it
        self.finals: dict[str, Request] = {}
        self.failures: dict[str, int] = {}
        self.suspects: set[str] = set()  # they were on a replica when it died
        self.dead = 0
        self.left: dict[str, Retries | None] = {}
        self.wishes: dict[str, int] = {}
        self.priorities: dict[str, Priority] = {}
        self.following: dict[str, str] = {}  # by request: the group whose outcome it waits for
        self.given_up: set[str] = set()  # a cancel was requested
        self.made: dict[int, str] = {}  # by input: the request that succeeded by itself

    def do(self, act: Any) -> Any:
        return self.background.run(act)

    def look(self, request_id: str) -> Request:
        return self.do(self.queue.get(TENANT, request_id))

    @rule(
        target=submitted,
        pool=st.sampled_from(POOLS),
        priority=st.sampled_from(Priority),
        retries=st.sampled_from([None, None, NONE, Retries(1, 1, 1)]),
    )
    def submit(self, pool: str, priority: Priority, retries: Retries | None) -> str:
        new_request = new(pool=pool, priority=priority, retries=retries, price=CENT)
        request = self.do(self.queue.submit(new_request))
        return self.note_request(request, retries)

    @rule(target=submitted, wish=st.integers(0, 1), priority=st.sampled_from(Priority))
    def submit_what_may_be_shared(self, wish: int, priority: Priority) -> str:
        alike = [
            id_
            for id_, other in self.wishes.items()
            if other == wish
            and id_ not in self.finals.keys() | self.following.keys() | self.given_up
            and (id_ in self.holder or self.priorities[id_] >= priority)
        ]
        reuse = bytes([wish]) * 32
        new_request = new(pool=POOLS[wish], priority=priority, reuse_digest=reuse, price=CENT)
        request = self.do(self.queue.submit(new_request))
        if wish in self.made:
            assert (request.state, request.reuses) == (State.SUCCEEDED, self.made[wish])
        elif alike:
            assert request.follows in alike
            self.following[request.id] = request.follows
        else:
            assert (request.state, request.follows) == (State.QUEUED, None)
        self.wishes[request.id] = wish
        return self.note_request(request, None)

    def note_request(self, request: Request, retries: Retries | None) -> str:
        self.pools[request.id] = request.pool
        self.priorities[request.id] = request.priority
        self.failures[request.id] = 0
        self.left[request.id] = retries
        if request.state.final:
            self.finals[request.id] = request
        return request.id

    @rule(target=leased, pool=st.sampled_from(POOLS), slots=st.integers(1, 3))
    def lease(self, pool: str, slots: int) -> Any:
        waiting = [
            id_
            for id_, where in self.pools.items()
            if where == pool
            and id_ not in self.holder.keys() | self.finals.keys() | self.following.keys()
        ]
        suspects = self.suspects.intersection(waiting)
        may_run_one = not self.suspects.intersection(self.holder)
        ready = len(waiting) - len(suspects) + bool(suspects and may_run_one)
        capacity = ask(slots, replica=f"r{self.dead}", pool=pool)
        # Where there is work, a slow machine may take its time.
        work = self.do(self.queue.ask(capacity if ready else replace(capacity, wait_s=0.02)))
        assert len(work.leases) == min(slots, ready)
        for granted in work.leases:
            assert granted.request_id in waiting
            assert granted.key not in self.accepted
            self.holder[granted.request_id] = granted.key
        return multiple(*(granted.key for granted in work.leases))

    @rule(lease_key=leased)
    def confirm(self, lease_key: LeaseKey) -> None:
        reply = self.do(self.queue.report(report(lease_key)))
        if self.holder.get(lease_key.request_id) == lease_key:
            assert not reply.fenced
            self.confirmed.add(lease_key)
        else:
            assert reply.fenced == (lease_key,)

    @rule(lease_key=leased, how=st.sampled_from(["succeeded", "failed", "retry", "cancelled"]))
    def finish(self, lease_key: LeaseKey, how: str) -> None:
        outcome = {
            "succeeded": None,
            "failed": failure(),
            "retry": failure("out_of_memory", retryable=True),
            "cancelled": failure("cancelled"),
        }[how]
        verdict = self.do(self.queue.finish(make_finish(lease_key, outcome)))
        if self.holder.get(lease_key.request_id) != lease_key:
            repeated = self.accepted.get(lease_key) == "finish"
            assert verdict is (Verdict.ACCEPTED if repeated else Verdict.FENCED)
            return
        assert verdict is Verdict.ACCEPTED
        left = self.left[lease_key.request_id]
        cause = Cause.SERVER_ERROR if how == "retry" else None
        self.note_end(lease_key, "finish", cause)
        request = self.look(lease_key.request_id)
        if how != "retry":
            assert request.state == how
        else:
            spent = self.failures[request.id] >= LIMITS.max_failures
            if left is not None:
                spent = not left.server_error
            if request.cancel_requested:
                assert request.state is State.CANCELLED
            else:
                assert request.state is (State.FAILED if spent else State.QUEUED)

    @rule(lease_key=leased)
    def hand_back(self, lease_key: LeaseKey) -> None:
        verdict = self.do(self.queue.hand_back(lease_key, "r", "draining"))
        if self.holder.get(lease_key.request_id) != lease_key:
            repeated = self.accepted.get(lease_key) == "hand_back"
            assert verdict is (Verdict.ACCEPTED if repeated else Verdict.FENCED)
            return
        assert verdict is Verdict.ACCEPTED
        self.note_end(lease_key, "hand_back", None)

    @rule(lease_key=leased)
    def an_attempt_that_was_overtaken_is_refused(self, lease_key: LeaseKey) -> None:
        if self.holder.get(lease_key.request_id) != lease_key:
            return
        self.hand_back(lease_key)
        if self.look(lease_key.request_id).state is State.CANCELLED:
            return
        pool = self.pools[lease_key.request_id]
        work = self.do(self.queue.ask(ask(1000, replica=f"r{self.dead}", pool=pool)))
        for granted in work.leases:
            self.holder[granted.request_id] = granted.key
        for act in (
            lambda: self.queue.finish(make_finish(lease_key)),
            lambda: self.queue.finish(
                make_finish(lease_key, failure("out_of_memory", retryable=True))
            ),
        ):
            assert self.do(act()) is Verdict.FENCED
        assert self.do(self.queue.report(report(lease_key))).fenced == (lease_key,)

    @rule(lease_key=leased)
    def an_attempt_that_fails_after_a_cancel_is_the_last(self, lease_key: LeaseKey) -> None:
        if self.holder.get(lease_key.request_id) != lease_key:
            return
        self.cancel(lease_key.request_id)
        self.finish(lease_key, "retry")

    @rule(request_id=submitted)
    def cancel(self, request_id: str) -> None:
        verdict = self.do(self.queue.cancel(TENANT, request_id))
        if request_id in self.finals:
            assert verdict is CancelVerdict.ALREADY_FINAL
        elif request_id in self.holder:
            assert verdict is CancelVerdict.REQUESTED
            self.given_up.add(request_id)
        else:
            assert verdict is CancelVerdict.CANCELLED
            assert self.look(request_id).state is State.CANCELLED
            self.following.pop(request_id, None)
            self.settle_followers(request_id)

    @rule()
    def every_replica_dies(self) -> None:
        self.liveness.buried.add(f"actor-r{self.dead}")
        self.dead += 1
        for key in [*self.holder.values()]:
            self.do(self.until_it_ended(key))
            if key in self.confirmed:
                self.suspects.add(key.request_id)
            self.note_end(key, "death", Cause.CONNECTION_ERROR if key in self.confirmed else None)

    async def until_it_ended(self, lease_key: LeaseKey) -> None:
        async with asyncio.timeout(120):
            while True:
                request = await self.queue.get(TENANT, lease_key.request_id)
                if request.state is not State.RUNNING:
                    return
                await asyncio.sleep(0.01)

    def note_end(self, lease_key: LeaseKey, act: str, cause: Cause | None) -> None:
        """Record the end of an attempt. ``cause``: cause of a failure that counts."""
        id_ = lease_key.request_id
        del self.holder[id_]
        self.accepted[lease_key] = act
        self.failures[id_] += cause is not None
        left = self.left[id_]
        if left is not None and cause is not None and left.remaining(cause):
            self.left[id_] = left.after(cause)
        self.settle_followers(id_)

    def settle_followers(self, id_: str) -> None:
        """Wait until the requests coalesced with an ended one have its outcome, or the first of
        them leads the others.
        """
        ended = self.look(id_)
        if ended.state is State.SUCCEEDED and id_ in self.wishes:
            self.made.setdefault(self.wishes[id_], id_)
        waiting = [follower for follower, leader in self.following.items() if leader == id_]
        if not ended.state.final or not waiting:
            return
        for follower_id in waiting:
            del self.following[follower_id]
        if ended.state is State.SUCCEEDED:
            for follower_id in waiting:
                shared = self.do(self.queue.wait(TENANT, follower_id, 10.0))
                assert (shared.state, shared.reuses) == (State.SUCCEEDED, id_)
            return
        waiting.sort(key=lambda request_id: -self.priorities[request_id])  # the first of equal ones
        heir, *others = waiting
        self.do(self.until_it_leads(heir))
        self.following.update(dict.fromkeys(others, heir))

    async def until_it_leads(self, request_id: str) -> None:
        async with asyncio.timeout(120):
            while (await self.queue.get(TENANT, request_id)).follows is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    @invariant()
    def every_request_is_somewhere_and_a_final_one_stays(self) -> None:
        for id_ in self.pools:
            request = self.look(id_)
            assert request.failures == self.failures[id_]
            assert request.retries_left == self.left[id_]
            assert (request.follows is None) == (id_ not in self.following)
            assert (request.outcome is not None) == request.state.final
            assert (request.state is State.RUNNING) == (id_ in self.holder)
            if id_ in self.finals:
                assert request == self.finals[id_]
            elif request.state.final:
                self.finals[id_] = request

    def teardown(self) -> None:
        for id_ in self.pools:
            lines = self.do(self.queue.lines(TENANT, id_))
            assert [line.sequence for line in lines] == list(range(1, len(lines) + 1))
        now = SystemClock().now()
        edges = [now - timedelta(days=1), now + timedelta(days=1)]
        totals = self.do(self.queue.ledger.usage_totals(TENANT, edges))
        computed = [
            request
            for request in self.finals.values()
            if request.state is State.SUCCEEDED and request.reuses is None
        ]
        assert sum(total.amount for total in totals) == len(computed) * CENT.amount
        billed = self.do(type(self).end())
        assert sorted(billed) == sorted(self.finals)


def test_a_random_walk_over_the_fake() -> None:
    queues: list[FakeQueue] = []

    async def begin(liveness: FakeLiveness) -> Queue:
        queues.append(FakeQueue(SystemClock(), FakeTerms(), LIMITS, liveness))
        return queues[-1]

    async def end() -> list[str]:
        return queues[-1].usage

    with Background() as background:
        run(background, begin, end)


def test_a_random_walk_over_postgresql(
    conninfo: str,
) -> None:
    ingresses: list[Ingress] = []
    databases: list[Any] = []

    async def begin(liveness: FakeLiveness) -> Queue:
        # Before the queue starts, which knows what it has read for a moment.
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(
                "TRUNCATE requests, attempts, events, usage, progress, fair_lanes, processes"
            )
        ingress = Ingress(conninfo, FakeTerms(), liveness)
        ingresses.append(ingress)
        queue = await ingress(LIMITS)
        databases.append(queue._database)
        return queue

    async def end() -> list[str]:
        rows = await databases[-1].rows("SELECT request_id::text FROM usage")
        await ingresses[-1].aclose()
        return [row[0] for row in rows]

    with Background() as background:
        run(background, begin, end)


def run(background: Background, begin: Any, end: Any) -> None:
    walk = type(
        "ThisWalk",
        (Walk,),
        {"background": background, "begin": staticmethod(begin), "end": staticmethod(end)},
    )
    run_state_machine_as_test(walk, settings=WALKS)
