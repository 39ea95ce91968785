"""Contract of the order of leases: run over the fake and over PostgreSQL."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from serve_app.domain.errors import Overloaded, TooLarge
from serve_app.domain.lease import Ask, Lease, Verdict
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.ports import Queue
from serve_app.domain.request import Priority, Request, State, WaitReason
from serve_app.queue.fairness.fair_queue import LOOK_AHEAD
from serve_app.queue.queue import PostgresQueue
from serve_app.settings import EndpointLimits, TenantLimits
from tests.contract.queues import Make
from tests.contract.waiting import eventually
from tests.queue.database import LONG_ASKS, LONG_LEASES
from tests.queue.requests import POOL, TENANT, ask, failure, lease, make_finish, new, report

CALM = replace(LONG_LEASES, ask_wait_s=2.0)
DEV, PRO = "fal-ai/flux/dev", "fal-ai/flux/pro"


def asks_hot(*hot: str, slots: int = 1, replica: str = "r1") -> Ask:
    return Ask(replica, f"actor-{replica}", POOL, slots, hot=hot)


async def nothing_to_lease(queue: Queue) -> None:
    """Wait until the queue has told the polls that wait that nothing is queued."""

    async def told() -> bool:
        return not isinstance(queue, PostgresQueue) or queue.parts.polls.is_drained(POOL)

    await eventually(told)


async def order_of(queue: Queue, most: int, run_s: float = 1.0) -> list[Lease]:
    """Up to ``most`` leases, one after the other, each run to its end."""
    leases: list[Lease] = []
    while len(leases) < most:
        work = await queue.ask(ask(1))
        if not work.leases:
            break
        (granted,) = work.leases
        leases.append(granted)
        await queue.finish(make_finish(granted.key, Outcome(output={}, usage=Usage(run_s, 4, 1.0))))
    return leases


async def submit_many(queue: Queue, n: int, **changes: object) -> list[str]:
    return [(await queue.submit(new(**changes))).id for _ in range(n)]


# Between tenants


async def test_a_tenant_with_a_long_queue_delays_another_by_one_generation(make: Make) -> None:
    queue = await make(CALM)
    many = await submit_many(queue, 30)
    running = (await queue.ask(ask(1))).leases[0]
    single = await queue.submit(new(tenant="bob"))
    await queue.finish(make_finish(running.key))
    following = await order_of(queue, 2)
    assert running.request_id == many[0]
    assert following[0].request_id == single.id


async def test_tenants_are_served_in_turn(make: Make) -> None:
    queue = await make(CALM)
    owners = dict.fromkeys(await submit_many(queue, 6), TENANT)
    owners |= dict.fromkeys(await submit_many(queue, 6, tenant="bob"), "bob")
    order = [owners[grant.request_id] for grant in await order_of(queue, 12)]
    assert all(sorted(order[n : n + 2]) == [TENANT, "bob"] for n in range(0, 12, 2))


async def test_a_statement_that_leases_several_takes_them_in_turn(make: Make) -> None:
    queue = await make(CALM)
    owners = dict.fromkeys(await submit_many(queue, 6), TENANT)
    owners |= dict.fromkeys(await submit_many(queue, 6, tenant="bob"), "bob")
    leases = (await queue.ask(ask(6))).leases
    assert sorted(owners[grant.request_id] for grant in leases) == [TENANT] * 3 + ["bob"] * 3


async def test_a_tenant_gets_its_weight(make: Make) -> None:
    queue = await make(replace(CALM, tenants={"bob": TenantLimits(weight=3)}))
    owners = dict.fromkeys(await submit_many(queue, 12), TENANT)
    owners |= dict.fromkeys(await submit_many(queue, 12, tenant="bob"), "bob")
    order = [owners[grant.request_id] for grant in await order_of(queue, 12)]
    assert 8 <= order.count("bob") <= 10


async def test_shares_are_of_time_and_not_of_requests(make: Make) -> None:
    queue = await make(CALM)
    owners = dict.fromkeys(await submit_many(queue, 12), TENANT)
    owners |= dict.fromkeys(await submit_many(queue, 24, tenant="bob"), "bob")
    seconds = {TENANT: 0.0, "bob": 0.0}
    for _ in range(24):
        (granted,) = (await queue.ask(ask(1))).leases
        owner = owners[granted.request_id]
        run_s = 4.0 if owner == TENANT else 1.0
        seconds[owner] += run_s
        await queue.finish(make_finish(granted.key, Outcome(output={}, usage=Usage(run_s, 4, 1.0))))
    assert abs(seconds[TENANT] - seconds["bob"]) <= 5.0


async def test_who_was_idle_has_saved_up_nothing(make: Make) -> None:
    queue = await make(CALM)
    owners = dict.fromkeys(await submit_many(queue, 1, tenant="bob"), "bob")
    await order_of(queue, 1)
    owners |= dict.fromkeys(await submit_many(queue, 20), TENANT)
    await order_of(queue, 10)  # while bob is idle
    owners |= dict.fromkeys(await submit_many(queue, 10, tenant="bob"), "bob")
    order = [owners[grant.request_id] for grant in await order_of(queue, 8)]
    assert 3 <= order.count(TENANT) <= 5


# Within a tenant


async def test_a_low_request_is_overtaken_by_those_that_come_soon_after_it(queue: Queue) -> None:
    low = await queue.submit(new(priority=Priority.LOW))
    normal = await queue.submit(new())
    high = await queue.submit(new(priority=Priority.HIGH))
    leases = (await queue.ask(ask(3))).leases
    assert [grant.request_id for grant in leases] == [high.id, normal.id, low.id]


async def test_high_priority_gains_nothing_over_other_tenants(make: Make) -> None:
    queue = await make(CALM)
    normal = await submit_many(queue, 4, tenant="bob")
    await submit_many(queue, 4, priority=Priority.HIGH)
    served = {grant.request_id for grant in await order_of(queue, 4)}
    assert len(served & {*normal}) == 2


async def test_what_is_loaded_goes_first_within_its_tenant(make: Make) -> None:
    queue = await make(CALM)
    await submit_many(queue, 2)
    loaded = await submit_many(queue, 2, endpoint=DEV)
    leases = (await queue.ask(asks_hot(DEV, slots=2))).leases
    assert [grant.request_id for grant in leases] == loaded


async def test_what_is_loaded_does_not_go_before_another_tenant(make: Make) -> None:
    queue = await make(CALM)
    await submit_many(queue, 5, endpoint=DEV)
    running = (await queue.ask(asks_hot(DEV))).leases[0]
    single = await queue.submit(new(tenant="bob", endpoint=PRO))
    await queue.finish(make_finish(running.key))
    (following,) = (await queue.ask(asks_hot(DEV))).leases
    assert following.request_id == single.id


async def test_what_is_in_host_memory_goes_behind_what_is_loaded_and_before_the_rest(
    make: Make,
) -> None:
    queue = await make(CALM)
    cold, host, hot = [
        (await queue.submit(new(endpoint=endpoint))).id for endpoint in ("other", PRO, DEV)
    ]
    polled = replace(asks_hot(DEV), warm=(PRO,))
    order: list[str] = []
    for _ in range(3):
        (granted,) = (await queue.ask(polled)).leases
        order.append(granted.request_id)
        await queue.finish(make_finish(granted.key))
    assert order == [hot, host, cold]


async def test_what_is_queued_again_goes_to_the_waiting_replica_that_is_nearest_to_running_it(
    make: Make,
) -> None:
    queue = await make(replace(LONG_ASKS, check_interval_s=60.0))
    await queue.submit(new(endpoint=DEV))
    (running,) = (await queue.ask(asks_hot(DEV))).leases
    polls = {
        "cold": asks_hot(PRO, replica="r2"),
        "host": replace(asks_hot(replica="r3"), warm=(DEV,)),
        "hot": asks_hot(DEV, replica="r4"),
    }
    waiting = {name: asyncio.create_task(queue.ask(poll)) for name, poll in polls.items()}
    await asyncio.sleep(0)  # all wait
    for name, replica in (("hot", "r1"), ("host", "r4"), ("cold", "r3")):
        await nothing_to_lease(queue)  # else the last turn of a round may get the request
        await queue.hand_back(running.key, replica, "It drains.")
        (running,) = (await waiting[name]).leases


async def test_what_expires_soon_goes_before_what_is_loaded(make: Make) -> None:
    queue = await make(CALM)
    await submit_many(queue, 2, endpoint=DEV)
    due = await queue.submit(new(start_within_s=3.0))
    (granted,) = (await queue.ask(asks_hot(DEV))).leases
    assert granted.request_id == due.id


async def test_a_replica_that_waits_with_the_weights_gets_the_request(make: Make) -> None:
    # A periodic look at the moment of the submit would lease it to the poll that came first.
    queue = await make(replace(LONG_ASKS, check_interval_s=60.0))
    cold = asyncio.create_task(queue.ask(asks_hot(PRO, replica="r1")))
    hot = asyncio.create_task(queue.ask(asks_hot(DEV, replica="r2")))
    await asyncio.sleep(0)  # both wait
    await nothing_to_lease(queue)
    request = await queue.submit(new(endpoint=DEV))
    served, _ = await asyncio.wait((cold, hot), return_when=asyncio.FIRST_COMPLETED)
    assert served == {hot}
    assert hot.result().leases[0].request_id == request.id
    cold.cancel()
    await asyncio.wait([cold])


# Limits


async def test_no_more_of_a_tenant_run_than_may(make: Make) -> None:
    queue = await make(replace(CALM, tenants={TENANT: TenantLimits(max_running=2)}))
    mine = await submit_many(queue, 4)
    theirs = await submit_many(queue, 4, tenant="bob")
    leases = (await queue.ask(ask(8))).leases
    assert {grant.request_id for grant in leases} == {*mine[:2], *theirs}
    first = await queue.get(TENANT, mine[2])
    await eventually(lambda: waits_for_a_limit(queue, first))
    waiting = asyncio.create_task(queue.ask(ask(8)))
    await asyncio.sleep(0.05)
    own = next(grant for grant in leases if grant.request_id == mine[0])
    await queue.finish(make_finish(own.key))
    granted = (await waiting).leases or (await queue.ask(ask(8))).leases
    assert [grant.request_id for grant in granted] == [mine[2]]


async def waits_for_a_limit(queue: Queue, request: Request) -> bool:
    waiting = await queue.waiting(request)
    return waiting.reason is WaitReason.LIMIT and "at once" in waiting.detail


async def test_no_more_of_an_endpoint_run_than_may(make: Make) -> None:
    queue = await make(replace(CALM, endpoints={DEV: EndpointLimits(max_running=1)}))
    dev = [
        *await submit_many(queue, 2, endpoint=DEV),
        *await submit_many(queue, 1, endpoint=DEV, tenant="bob"),
    ]
    other = await submit_many(queue, 2)
    leases = {grant.request_id for grant in (await queue.ask(ask(8))).leases}
    assert leases >= {*other}
    assert len(leases & {*dev}) == 1
    waits = await queue.get(TENANT, dev[1])
    await eventually(lambda: waits_for_a_limit(queue, waits))


@pytest.mark.long
async def test_however_many_wait_for_a_full_endpoint_those_behind_them_go_on(make: Make) -> None:
    queue = await make(replace(CALM, endpoints={DEV: EndpointLimits(max_running=1)}))
    dev = await submit_many(queue, LOOK_AHEAD + 8, endpoint=DEV)
    (running,) = (await queue.ask(ask(1))).leases
    assert running.request_id == dev[0]
    behind = [*await submit_many(queue, 2), *await submit_many(queue, 2, endpoint=PRO)]
    assert [grant.request_id for grant in await order_of(queue, 4)] == behind
    await queue.finish(make_finish(running.key))
    assert [grant.request_id for grant in await order_of(queue, 2)] == dev[1:3]


async def test_a_tenant_that_waits_for_a_full_endpoint_holds_up_no_other(make: Make) -> None:
    queue = await make(replace(CALM, endpoints={DEV: EndpointLimits(max_running=1)}))
    await submit_many(queue, 3, endpoint=DEV)
    assert len((await queue.ask(ask(1))).leases) == 1
    for tenant in ("bob", "cleo", "dan"):
        await submit_many(queue, 2, endpoint=DEV, tenant=tenant)
    late = await submit_many(queue, 1, tenant="eve")
    assert [grant.request_id for grant in (await queue.ask(ask(1))).leases] == late


async def test_every_tenant_has_the_same_limit_unless_it_has_its_own(make: Make) -> None:
    limits = replace(CALM, max_running_per_tenant=1, tenants={"bob": TenantLimits(max_running=3)})
    queue = await make(limits)
    await submit_many(queue, 4)
    await submit_many(queue, 4, tenant="bob")
    leases = (await queue.ask(ask(8))).leases
    assert len(leases) == 4


@pytest.mark.long
async def test_who_waited_for_a_limit_has_saved_up_nothing(make: Make) -> None:
    queue = await make(replace(CALM, tenants={TENANT: TenantLimits(max_running=1)}))
    owners = dict.fromkeys(await submit_many(queue, 10), TENANT)
    owners |= dict.fromkeys(await submit_many(queue, 30, tenant="bob"), "bob")
    key = next(
        grant.key
        for grant in (await queue.ask(ask(2))).leases
        if owners[grant.request_id] == TENANT
    )
    await order_of(queue, 15)  # all bob's
    await queue.finish(make_finish(key))
    order = [owners[grant.request_id] for grant in await order_of(queue, 8)]
    assert 3 <= order.count("bob") <= 5


async def test_past_a_tenant_s_or_an_endpoint_s_own_cap_submits_are_refused(make: Make) -> None:
    limits = replace(
        CALM,
        tenants={TENANT: TenantLimits(max_waiting=2)},
        endpoints={DEV: EndpointLimits(max_waiting=1)},
    )
    queue = await make(limits)
    await submit_many(queue, 2)
    with pytest.raises(Overloaded, match="2 of your requests") as refused:
        await queue.submit(new())
    assert refused.value.retry_after_s >= 1.0
    await queue.submit(new(tenant="bob", endpoint=DEV))
    assert refused.value.reason == "tenant_limit"
    with pytest.raises(Overloaded, match="1 requests are waiting for") as refused:
        await queue.submit(new(tenant="bob", endpoint=DEV))


def image(kib: int) -> dict[str, str]:
    return {"image_url": secrets.token_urlsafe(kib * 768)}  # does not compress


@pytest.mark.long
async def test_past_a_tenant_s_bytes_of_queued_inputs_large_ones_are_refused(make: Make) -> None:
    limits = replace(
        CALM,
        max_waiting_bytes_per_tenant=300 * 1024,
        tenants={"bob": TenantLimits(max_waiting_bytes=2**30)},
    )
    queue = await make(limits)
    await submit_many(queue, 2, input=image(120))
    with pytest.raises(Overloaded, match="DARKROOM_MAX_WAITING_BYTES_PER_TENANT") as refused:
        await queue.submit(new(input=image(120)))
    assert refused.value.retry_after_s >= 1.0
    assert refused.value.reason == "tenant_bytes_limit"
    await submit_many(queue, 3)  # small inputs are limited by their number
    await submit_many(queue, 3, tenant="bob", input=image(120))  # its own limit
    await submit_many(queue, 1, tenant="eve", input=image(120))
    (granted, *_) = (await queue.ask(ask(8))).leases
    await queue.finish(make_finish(granted.key))

    async def fits() -> bool:
        try:
            await queue.submit(new(input=image(120)))
        except Overloaded:
            return False
        return True

    await eventually(fits)


async def test_an_input_above_the_bytes_of_all_queued_ones_is_too_large(make: Make) -> None:
    queue = await make(replace(CALM, max_waiting_bytes_per_tenant=100 * 1024))
    with pytest.raises(TooLarge, match="102400"):
        await queue.submit(new(input=image(120)))


# Overall deadline


async def test_a_request_that_is_queued_past_its_deadline_expires(queue: Queue) -> None:
    late = await queue.submit(new(end_within_s=0.15, start_within_s=60.0))
    ended = await queue.wait(TENANT, late.id, 30.0)
    assert ended.state is State.EXPIRED
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert "X-Darkroom-Deadline" in ended.outcome.failure.message


async def test_a_lease_says_what_remains_of_the_time(queue: Queue) -> None:
    await queue.submit(new(end_within_s=60.0))
    await queue.submit(new())
    first, second = (await queue.ask(ask(2))).leases
    assert first.deadline_s == pytest.approx(60.0, abs=5.0)
    assert second.deadline_s is None


async def test_an_attempt_that_ran_out_of_time_ends_the_request_as_expired(queue: Queue) -> None:
    request = await queue.submit(new(end_within_s=60.0))
    (granted,) = (await queue.ask(ask(1))).leases
    await queue.finish(make_finish(granted.key, failure("expired")))
    ended = await queue.get(TENANT, request.id)
    assert ended.state is State.EXPIRED
    assert ended.outcome == failure("expired")


@pytest.mark.long
@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_a_hanging_replica_holds_past_its_deadline_is_ended(
    make: Make, *, cancelled: bool
) -> None:
    # A lease outlasts the deadline, so that none that runs out on a slow machine is a failure.
    queue = await make(replace(LONG_LEASES, lease_s=5.0, overtime_s=0.2))
    request = await queue.submit(new(end_within_s=2.0))
    key = (await lease(queue)).key
    if cancelled:
        await queue.cancel(TENANT, request.id)

    async def fenced() -> bool:
        """Renew the lease without stopping. True once it is fenced."""
        return bool((await queue.report(report(key))).fenced)

    await eventually(fenced)
    ended = await queue.get(TENANT, request.id)
    assert ended.state is (State.CANCELLED if cancelled else State.EXPIRED)
    assert ended.failures == 0
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.code == ended.state.value
    assert await queue.finish(make_finish(key)) is Verdict.FENCED
    assert await queue.finish(make_finish(key, failure("expired"))) is Verdict.FENCED
    lines = await queue.lines(TENANT, request.id)
    assert (lines[-1].state, lines[-1].message) == (ended.state, ended.outcome.failure.message)


@pytest.mark.long
async def test_a_replica_has_a_while_past_the_deadline_to_hand_in(make: Make) -> None:
    queue = await make(replace(LONG_LEASES, overtime_s=60.0))
    request = await queue.submit(new(end_within_s=2.0))  # leased long before
    key = (await lease(queue)).key

    async def over() -> bool:
        assert not (await queue.report(report(key))).fenced
        return datetime.now(UTC) > request.created_at + timedelta(seconds=2.2)

    await eventually(over)
    assert await queue.finish(make_finish(key)) is Verdict.ACCEPTED


@pytest.mark.long
async def test_what_comes_back_after_its_deadline_expires(make: Make) -> None:
    queue = await make(CALM)
    request = await queue.submit(new(end_within_s=2.0))  # leased long before
    (granted,) = (await queue.ask(ask(1))).leases
    await queue.report(report(granted.key))
    await asyncio.sleep(2.1)
    assert (await queue.get(TENANT, request.id)).state is State.RUNNING
    await queue.hand_back(granted.key, "r1", "draining")
    assert (await queue.wait(TENANT, request.id, 60.0)).state is State.EXPIRED
