"""Contract of suspects: requests that were on a replica when it died, one of which may be the
cause.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.lease import Lease, LeaseKey, Presence, ReplicaStage
from serve_app.domain.ports import Queue
from serve_app.domain.request import State, WaitReason
from serve_app.queue.fairness.fair_queue import LOOK_AHEAD
from serve_app.queue.store import messages
from tests.contract.queues import Make
from tests.fakes.liveness import FakeLiveness
from tests.queue.database import LONG_LEASES
from tests.queue.requests import POOL, TENANT, ask, failure, make_finish, new, report


async def lease_and_confirm(
    queue: Queue, replica: str, slots: int, *lease_key: LeaseKey, node: str = ""
) -> Sequence[Lease]:
    """Leases, confirmed by a report."""
    leases = (await queue.ask(ask(slots, *lease_key, replica=replica, node=node))).leases
    await queue.report(report(*(lease.key for lease in leases), replica=replica))
    return leases


async def kill_replica(queue: Queue, liveness: FakeLiveness, replica: str, *ids: str) -> None:
    liveness.buried.add(f"actor-{replica}")
    for id_ in ids:
        while (await queue.wait_for_change(TENANT, id_, 0.1)).state is State.RUNNING:
            pass


async def test_a_replica_runs_one_at_a_time_of_those_that_another_died_with(
    make: Make, liveness: FakeLiveness
) -> None:
    queue = await make(LONG_LEASES)
    first, second, fresh = [(await queue.submit(new())).id for _ in range(3)]
    assert len(await lease_and_confirm(queue, "r1", 2)) == 2
    await kill_replica(queue, liveness, "r1", first, second)
    (lease, other) = await lease_and_confirm(queue, "r2", 3)
    assert {lease.request_id, other.request_id} == {first, fresh}
    assert await lease_and_confirm(queue, "r2", 1, lease.key, other.key) == ()
    (elsewhere,) = await lease_and_confirm(queue, "r3", 3)
    assert elsewhere.request_id == second


async def test_a_replica_that_named_a_lease_in_its_poll_and_died_ran_it(
    make: Make, liveness: FakeLiveness
) -> None:
    queue = await make(LONG_LEASES)
    request = await queue.submit(new())
    (granted,) = (await queue.ask(ask(1, replica="r1"))).leases
    await queue.ask(ask(0, granted.key, replica="r1"))
    await kill_replica(queue, liveness, "r1", request.id)
    again = await queue.get(TENANT, request.id)
    assert (again.state, again.failures, again.alone) == (State.QUEUED, 1, True)


async def test_so_it_is_of_those_that_it_gives_up_because_it_hangs(make: Make) -> None:
    queue = await make(LONG_LEASES)
    ids = {(await queue.submit(new())).id for _ in range(2)}
    for granted in await lease_and_confirm(queue, "r1", 2):
        await queue.finish(make_finish(granted.key, failure("replica_died", retryable=True)))
    (first,) = await lease_and_confirm(queue, "r2", 3)
    (other,) = await lease_and_confirm(queue, "r3", 3)
    assert {first.request_id, other.request_id} == ids
    assert (await queue.get(TENANT, first.request_id)).failures == 1


async def test_it_gets_the_next_one_when_that_has_ended(make: Make, liveness: FakeLiveness) -> None:
    queue = await make(LONG_LEASES)
    ids = [(await queue.submit(new())).id for _ in range(3)]
    await lease_and_confirm(queue, "r1", 3)
    await kill_replica(queue, liveness, "r1", *ids)
    for id_ in ids:
        (granted,) = await lease_and_confirm(queue, "r2", 3)
        assert granted.request_id == id_
        await queue.finish(make_finish(granted.key, replica="r2"))


async def test_of_two_replicas_that_ask_the_one_that_runs_none_gets_it(
    make: Make, liveness: FakeLiveness
) -> None:
    queue = await make(LONG_LEASES)
    ids = [(await queue.submit(new())).id for _ in range(2)]
    await lease_and_confirm(queue, "r1", 2)
    await kill_replica(queue, liveness, "r1", *ids)
    (first,) = await lease_and_confirm(queue, "r2", 1)
    fresh = (await queue.submit(new())).id
    (got,) = await lease_and_confirm(queue, "r2", 1, first.key)
    assert got.request_id == fresh
    (got,) = await lease_and_confirm(queue, "r3", 1)
    assert got.request_id == ids[1]


async def test_however_many_wait_for_their_turn_those_behind_them_go_on(
    make: Make, liveness: FakeLiveness
) -> None:
    queue = await make(LONG_LEASES)
    ids = [(await queue.submit(new())).id for _ in range(LOOK_AHEAD + 3)]
    running: list[LeaseKey] = []
    while len(running) < len(ids):
        running += [lease.key for lease in await lease_and_confirm(queue, "r1", 100, *running)]
    await kill_replica(queue, liveness, "r1", *ids)
    (suspect,) = await lease_and_confirm(queue, "r2", 1)
    assert suspect.request_id == ids[0]
    fresh = (await queue.submit(new())).id
    other = (await queue.submit(new(tenant="bob"))).id
    for expected in ({fresh, other}, {fresh, other}):
        (got,) = await lease_and_confirm(queue, "r2", 1, suspect.key)
        assert got.request_id in expected
        await queue.finish(make_finish(got.key, replica="r2"))
    await queue.finish(make_finish(suspect.key, replica="r2"))
    (following,) = await lease_and_confirm(queue, "r2", 5)
    assert following.request_id == ids[1]


async def ready(queue: Queue, replica: str, node: str) -> None:
    stage = ReplicaStage.READY
    await queue.announce(Presence(replica, f"actor-{replica}", POOL, stage, slots=1, node=node))


async def test_another_node_tries_it_before_the_one_on_which_a_replica_died_with_it(
    make: Make, liveness: FakeLiveness
) -> None:
    queue = await make(LONG_LEASES)
    for replica, node in (("r1", "one"), ("r2", "one"), ("r3", "two")):
        await ready(queue, replica, node)
    id_ = (await queue.submit(new())).id
    assert await lease_and_confirm(queue, "r1", 1, node="one")
    await kill_replica(queue, liveness, "r1", id_)
    assert await lease_and_confirm(queue, "r2", 1, node="one") == ()
    waiting = await queue.waiting(await queue.get(TENANT, id_))
    assert (waiting.reason, waiting.detail) == (WaitReason.BUSY, messages.SUSPECT)
    (granted,) = await lease_and_confirm(queue, "r3", 1, node="two")
    await queue.finish(make_finish(granted.key, failure("replica_died", retryable=True), "r3"))
    # Both nodes have had it, so any may have it again.
    (granted,) = await lease_and_confirm(queue, "r2", 1, node="one")
    assert granted.request_id == id_


async def test_no_request_is_blamed_for_what_happened_on_one_node_while_another_is_ready(
    make: Make, liveness: FakeLiveness
) -> None:
    queue = await make(LONG_LEASES)
    id_ = (await queue.submit(new())).id
    for replica in ("r1", "r2", "r3"):
        await ready(queue, replica, "one")
        assert await lease_and_confirm(queue, replica, 1, node="one")
        if replica == "r3":
            await ready(queue, "r4", "two")
        await kill_replica(queue, liveness, replica, id_)
    assert (await queue.get(TENANT, id_)).state is State.QUEUED
    assert await lease_and_confirm(queue, "r4", 1, node="two")
    await kill_replica(queue, liveness, "r4", id_)
    ended = await queue.get(TENANT, id_)
    assert (ended.state, ended.failures) == (State.FAILED, 4)
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.code == "poison"


async def test_where_there_is_no_other_node_it_is_blamed_as_soon_as_it_has_no_attempt_left(
    make: Make, liveness: FakeLiveness
) -> None:
    queue = await make(LONG_LEASES)
    id_ = (await queue.submit(new())).id
    for replica in ("r1", "r2", "r3"):
        await ready(queue, replica, "one")
        assert await lease_and_confirm(queue, replica, 1, node="one")
        await kill_replica(queue, liveness, replica, id_)
    assert (await queue.get(TENANT, id_)).state is State.FAILED
