"""Two pools on one queue: replicas of the second take what those of the first have no slot for."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.domain.errors import Overloaded
from serve_app.domain.lease import Ask, Demand, Lease, Presence, ReplicaStage
from serve_app.domain.request import State, WaitReason
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.state.demand import of_queues
from serve_app.queue.store.config import QueueLimits
from serve_app.settings import TenantLimits
from serve_app.settings.overflow import OverflowPools
from tests.contract.waiting import eventually
from tests.deployments.waiting import until
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import POOL, TENANT, ask, make_finish, new, report

OTHER = "large"
CHAIN = OverflowPools({OTHER: POOL})
LIMITS = replace(LONG_LEASES, overflow=CHAIN)
PATIENT = replace(LIMITS, ask_wait_s=60.0, check_interval_s=600.0)
"""Polls return with a lease, and nothing looks for work but polls and submits."""
LIMITED = replace(PATIENT, max_running_per_tenant=9)
"""Requests that count for a limit are queued before they are leased."""


async def until_polls(queue: PostgresQueue, slots: int) -> None:
    """Wait until polls with so many free slots wait at this process, and no statement that began
    before the last of them is still looking for work.
    """
    waiters, polls = queue.parts.state.waiters, queue.parts.polls
    await until(lambda: waiters.slots(POOL) >= slots and polls.is_drained(POOL))


async def take_lease(queue: PostgresQueue, poll: Ask) -> Lease:
    (lease,) = (await queue.ask(poll)).leases
    return lease


async def test_a_replica_of_the_overflow_pool_leases_from_the_queue_of_the_first(
    ingress: Ingress,
) -> None:
    queue = await ingress(LIMITS)
    stored = await queue.submit(new())
    lease = await take_lease(queue, ask(1, replica="l1", pool=OTHER))
    assert lease.request_id == stored.id
    assert (await queue.get(TENANT, stored.id)).pool == POOL
    await queue.finish(make_finish(lease.key, replica="l1"))
    assert (await queue.get(TENANT, stored.id)).state is State.SUCCEEDED


@pytest.mark.parametrize("limits", [PATIENT, LIMITED], ids=["leased_at_once", "queued_first"])
async def test_a_free_slot_of_the_first_pool_is_taken_before_one_of_the_overflow_pool(
    ingress: Ingress, limits: QueueLimits
) -> None:
    queue = await ingress(limits)
    other = asyncio.create_task(queue.ask(ask(3, replica="l1", pool=OTHER)))
    await until_polls(queue, 3)
    own = asyncio.create_task(queue.ask(ask(2, replica="r1")))
    await until_polls(queue, 5)
    first = await queue.submit(new())
    assert [granted.request_id for granted in (await own).leases] == [first.id]
    assert not other.done()
    second = await queue.submit(new())
    assert [granted.request_id for granted in (await other).leases] == [second.id]


async def test_both_pools_take_what_is_queued_in_the_order_of_one_queue(ingress: Ingress) -> None:
    queue = await ingress(LIMITS)
    stored = [await queue.submit(new(tenant=name)) for name in ("ann", "ann", "bob", "bob")]
    polls = (("r1", POOL), ("l1", OTHER), ("r2", POOL), ("l2", OTHER))
    taken = [
        (await take_lease(queue, ask(1, replica=name, pool=pool))).request_id
        for name, pool in polls
    ]
    order = [stored[0].id, stored[2].id, stored[1].id, stored[3].id]
    assert taken == order  # by turns, as with one pool


async def test_a_limit_on_running_requests_holds_over_both_pools(ingress: Ingress) -> None:
    limits = replace(LIMITS, tenants={TENANT: TenantLimits(max_running=2)})
    queue = await ingress(limits)
    for _ in range(4):
        await queue.submit(new())
    first = await queue.ask(ask(1, replica="r1"))
    second = await queue.ask(ask(4, replica="l1", pool=OTHER))
    assert len(first.leases) + len(second.leases) == 2
    assert not (await queue.ask(ask(4, replica="l2", pool=OTHER))).leases


async def test_endpoints_that_the_overflow_pool_cannot_run_stay_for_the_first(
    ingress: Ingress, terms: FakeTerms
) -> None:
    terms.least_bytes = {"large/one": 40, "small/one": 0, "unnamed/one": 0}
    named = frozenset({"large/one", "small/one"})
    overflow = OverflowPools({OTHER: POOL}, {OTHER: named}, {OTHER: 24})
    queue = await ingress(replace(LIMITS, overflow=overflow))
    ids = {
        endpoint: (await queue.submit(new(endpoint=endpoint))).id
        for endpoint in ("large/one", "unnamed/one", "small/one")
    }
    work = await queue.ask(ask(3, replica="l1", pool=OTHER))
    assert [granted.request_id for granted in work.leases] == [ids["small/one"]]
    bigger = replace(ask(3, replica="l2", pool=OTHER), device_bytes=80)
    work = await queue.ask(bigger)
    assert [granted.request_id for granted in work.leases] == [ids["large/one"]]
    work = await queue.ask(ask(3, replica="r1"))
    assert [granted.request_id for granted in work.leases] == [ids["unnamed/one"]]

    async def none_fits() -> bool:
        demand = (await queue.demand())[OTHER]
        return (demand.overflow_queued, demand.overflow_queued_s) == (0, 0.0)

    await eventually(none_fits)  # a count beside the submits may have counted one twice


async def test_the_demand_counts_what_runs_where_it_runs_and_for_the_scaling_in_its_queue_too(
    ingress: Ingress, terms: FakeTerms
) -> None:
    terms.least_bytes = {"large/one": 40}
    overflow = OverflowPools({OTHER: POOL}, {}, {OTHER: 24})
    queue = await ingress(replace(LIMITS, overflow=overflow))
    for name, pool in (("r1", POOL), ("l1", OTHER)):
        await queue.announce(Presence(name, f"actor-{name}", pool, ReplicaStage.READY, slots=1))
        await queue.submit(new())
        await take_lease(queue, ask(1, replica=name, pool=pool))
    for endpoint in ("large/one", "small/one"):
        await queue.submit(new(endpoint=endpoint))

    async def is_counted() -> bool:
        demands = await queue.demand()
        own = {pool: (demand.queued, demand.running) for pool, demand in demands.items()}
        return own == {POOL: (2, 1), OTHER: (0, 1)} and demands[OTHER].overflow_queued == 1

    await eventually(is_counted)
    scaling = of_queues(await queue.demand(), overflow)
    assert (scaling[POOL].running, scaling[OTHER].running) == (2, 1)
    assert scaling[POOL].idle_s < 1


async def test_what_runs_counts_for_a_first_pool_that_has_neither_replicas_nor_queued_requests(
    ingress: Ingress,
) -> None:
    queue = await ingress(LIMITS)
    await queue.announce(Presence("l1", "actor-l1", OTHER, ReplicaStage.READY, slots=1))
    await queue.submit(new())
    await take_lease(queue, ask(1, replica="l1", pool=OTHER))

    async def is_counted() -> bool:
        scaling = of_queues(await queue.demand(), CHAIN)
        return (scaling[POOL].queued, scaling[POOL].running) == (0, 1)

    await eventually(is_counted)
    scaling = of_queues(await queue.demand(), CHAIN)
    assert scaling[POOL].idle_s < 1


async def test_an_overflow_pool_without_replicas_has_a_demand(ingress: Ingress) -> None:
    queue = await ingress(LIMITS)
    await queue.submit(new())

    async def is_counted() -> bool:
        demand = (await queue.demand())[OTHER]
        most = Demand(overflow_queued=1, overflow_queued_s=60.0, idle_s=demand.idle_s)
        return demand == most

    await eventually(is_counted)


async def test_each_class_learns_its_own_times_and_lends_them_where_none_are_known(
    ingress: Ingress,
) -> None:
    queue = await ingress(LIMITS)
    costs = queue.parts.state.costs
    await queue.announce(Presence("l1", "actor-l1", OTHER, ReplicaStage.READY, slots=1))
    stored = await queue.submit(new())
    lease = await take_lease(queue, ask(1, replica="l1", pool=OTHER))
    await queue.report(report(lease.key, replica="l1"))
    await queue.finish(make_finish(lease.key, replica="l1"))
    await until(lambda: costs.knows(stored.endpoint, POOL))
    keys = {(row["endpoint"], row["pool"]) for row in costs.as_rows()}
    assert (stored.endpoint, POOL) in keys  # positions are those of the queue
    lent = costs.expected_s(stored.endpoint, POOL, stored.work)
    assert lent == costs.expected_s(stored.endpoint, OTHER, stored.work)
    costs.observe(stored.endpoint, POOL, stored.work, 40.0)
    await until(lambda: costs.typical_s(stored.endpoint, POOL, 1.0) == 40.0)
    assert costs.typical_s(stored.endpoint, OTHER, 1.0) < 40.0
    rows = await queue._database.rows("SELECT pool FROM costs WHERE endpoint <> ''")
    assert (OTHER,) in rows


async def test_a_request_waits_because_the_replicas_of_both_pools_are_busy(
    ingress: Ingress,
) -> None:
    queue = await ingress(LIMITS)
    request = await queue.submit(new())
    assert (await queue.waiting(request)).reason is WaitReason.NO_REPLICA
    starting = Presence("l1", "actor-l1", OTHER, ReplicaStage.STARTING, "loading")
    await queue.announce(starting)
    now = await queue.waiting(request)
    assert (now.reason, now.detail) == (WaitReason.COLD_START, "loading")
    await queue.announce(replace(starting, stage=ReplicaStage.READY, detail=""))
    assert (await queue.waiting(request)).reason is WaitReason.BUSY


async def test_a_replica_that_drains_hands_its_request_to_the_other_pool(ingress: Ingress) -> None:
    queue = await ingress(LIMITS)
    stored = await queue.submit(new())
    lease = await take_lease(queue, ask(1, replica="l1", pool=OTHER))
    await queue.report(report(lease.key, replica="l1"))
    await queue.hand_back(lease.key, "l1", "it stops")
    again = await take_lease(queue, ask(1, replica="r1"))
    assert (again.request_id, again.attempt) == (stored.id, 2)
    assert (await queue.current(TENANT, stored.id)).failures == 0


async def test_settings_that_change_end_and_begin_the_overflow_of_a_running_queue(
    ingress: Ingress,
) -> None:
    queue = await ingress(replace(LIMITS, overflow=OverflowPools()))
    await queue.submit(new())
    poll = replace(ask(1, replica="l1", pool=OTHER), wait_s=0.05)
    assert not (await queue.ask(poll)).leases
    queue.parts.polls._limits.overflow = CHAIN
    assert len((await queue.ask(poll)).leases) == 1


async def test_a_client_that_allows_no_wait_is_accepted_while_the_overflow_pool_is_free(
    ingress: Ingress,
) -> None:
    queue = await ingress(PATIENT)
    poll = asyncio.create_task(queue.ask(ask(1, replica="l1", pool=OTHER)))
    await until_polls(queue, 1)
    accepted = await queue.submit(new(), most_queued=1)
    assert [granted.request_id for granted in (await poll).leases] == [accepted.id]
    await queue.submit(new())
    with pytest.raises(Overloaded):
        await queue.submit(new(), most_queued=1)


async def test_with_many_of_both_pools_every_request_runs_once_and_the_first_is_kept_full(
    ingress: Ingress,
) -> None:
    queues = [await ingress(LIMITS) for _ in range(2)]
    ids = [(await queues[n % 2].submit(new(tenant=f"t{n % 3}"))).id for n in range(40)]
    ran: list[str] = []

    async def replica(number: int) -> None:
        queue, pool = queues[number % 2], POOL if number < 3 else OTHER
        name = f"{pool}-{number}"
        while len(ran) < len(ids):
            poll = replace(ask(2, replica=name, pool=pool), wait_s=0.1)
            for lease in (await queue.ask(poll)).leases:
                await queue.finish(make_finish(lease.key, replica=name))
                ran.append(lease.request_id)

    await asyncio.gather(*map(replica, range(6)))
    assert sorted(ran) == sorted(ids)


async def test_a_replica_is_known_by_its_call_before_its_row_is_written(ingress: Ingress) -> None:
    queue = await ingress(PATIENT)  # nothing writes the rows
    await queue.submit(new())
    await take_lease(queue, ask(1, replica="l1", pool=OTHER))
    await queue.parts.state.stats.refresh()
    assert queue.parts.state.stats.ran_in("l1", POOL) == OTHER
