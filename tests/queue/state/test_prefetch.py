"""What busy replicas are told to load beforehand: which of them, and when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.audit.acts import Actor
from serve_app.domain.executors.fallback import Fallback, FallbackMove, FallbackReason
from serve_app.domain.lease import Lease, LeaseKey
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.state.prefetch import MAX_LOADS, READY, ROUNDS, ReplicaWeights, upcoming
from serve_app.queue.state.waiters import Waiters
from serve_app.telemetry.clock import SystemClock
from tests.contract.waiting import eventually
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import POOL, ask, new

FLUX, SDXL, WAN = "fal-ai/flux/dev", "fal-ai/fast-sdxl", "fal-ai/wan"
ENDPOINTS = (FLUX, SDXL, WAN)
SETS = st.frozensets(st.sampled_from(ENDPOINTS), max_size=2)


def replica(name: str, slots: int = 1, **weights: frozenset[str]) -> ReplicaWeights:
    return ReplicaWeights(name, slots, **weights)


REPLICAS = st.lists(
    st.builds(ReplicaWeights, st.just("r"), st.integers(1, 4), SETS, SETS, SETS, SETS),
    min_size=1,
    max_size=6,
).map(lambda replicas: [replace(weights, replica_id=f"r{n}") for n, weights in enumerate(replicas)])


@given(st.lists(st.sampled_from(ENDPOINTS), max_size=60), REPLICAS)
def test_no_more_replicas_load_an_endpoint_than_its_requests_fill(
    front: list[str], replicas: list[ReplicaWeights]
) -> None:
    plan = upcoming(front, replicas)
    slots = sum(weights.slots for weights in replicas)
    requests = Counter(front[: ROUNDS * slots])
    loads = Counter[str]()
    for holder in replicas:
        told = plan.get(holder.replica_id, ())
        assert set(told) <= set(requests)
        mine = [endpoint for endpoint in told if not holder.has(endpoint)]
        assert len(mine) <= MAX_LOADS
        assert not holder.not_kept.intersection(mine)
        # What it has and the queue needs is named too, so that nothing evicts it.
        assert not told or {name for name in requests if holder.has(name)} <= set(told)
        loads.update(mine)
    for endpoint, number in loads.items():
        there = sum(weights.has(endpoint) for weights in replicas)
        assert there + number <= ceil(requests[endpoint] * len(replicas) / slots)


@pytest.mark.long
@given(st.lists(st.sampled_from(ENDPOINTS), max_size=60), REPLICAS)
def test_every_ingress_decides_the_same_and_a_load_that_begins_changes_nothing(
    front: list[str], replicas: list[ReplicaWeights]
) -> None:
    plan = upcoming(front, replicas)
    assert upcoming(front, replicas) == plan
    begun = [
        replace(weights, loading=weights.loading | set(plan.get(weights.replica_id, ())))
        for weights in replicas
    ]
    after = upcoming(front, begun)
    for holder in replicas:
        assert set(after.get(holder.replica_id, ())) >= set(plan.get(holder.replica_id, ()))


def test_a_single_request_is_loaded_for_by_one_replica_and_by_the_nearest() -> None:
    cold = [replica(f"r{n}", hot=frozenset({FLUX})) for n in range(4)]
    front = [FLUX, FLUX, SDXL]
    (name,) = (id_ for id_, told in upcoming(front, cold).items() if SDXL in told)
    warm = replace(
        next(holder for holder in cold if holder.replica_id != name), host=frozenset({SDXL})
    )
    replicas = [warm, *(holder for holder in cold if holder.replica_id != warm.replica_id)]
    assert upcoming(front, replicas) == {warm.replica_id: (FLUX, SDXL)}


def test_nothing_is_loaded_for_what_is_far_behind_in_the_queue() -> None:
    assert upcoming([FLUX] * 10 + [SDXL], [replica("r1", hot=frozenset({FLUX}))]) == {}


# In the queue

PATIENT = replace(LONG_LEASES, ask_wait_s=2.0)


class BusyReplica:
    """A replica with one slot that is taken, and that polls for signals as replicas do.

    ``knows_hints``: False for one of the version before.
    """

    def __init__(self, queue: PostgresQueue, name: str, *, knows_hints: bool = True) -> None:
        self._queue = queue
        self._name = name
        self._version = "" if knows_hints else None
        self._task: asyncio.Task[None] | None = None
        self.running: Lease | None = None
        self.told: tuple[str, ...] | None = None

    async def start(self) -> None:
        await self._queue.submit(new(endpoint=FLUX))
        polled = replace(ask(1, replica=self._name), hot=(FLUX,))
        (self.running,) = (await self._queue.ask(polled)).leases
        self._task = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        assert self.running is not None
        full = replace(ask(0, self.running.key, replica=self._name), hot=(FLUX,))
        while True:
            work = await self._queue.ask(replace(full, upcoming=self._version))
            if work.upcoming is not None:
                self.told = tuple(endpoint.id for endpoint in work.upcoming)
                self._version = work.upcoming_version

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def busy() -> AsyncIterator[Callable[..., Awaitable[BusyReplica]]]:
    started: list[BusyReplica] = []

    async def start(queue: PostgresQueue, name: str, **options: bool) -> BusyReplica:
        replica = BusyReplica(queue, name, **options)
        await replica.start()
        started.append(replica)
        return replica

    yield start
    for busy_replica in started:
        await busy_replica.aclose()


async def wait_for_weights(queue: PostgresQueue, replicas: int) -> None:
    """Wait until the weights of so many replicas are in the database, for all processes to read."""

    async def there() -> bool:
        rows = await queue._database.rows(READY, {"pools": [POOL]})
        return sum(list(row[3]) == [FLUX] for row in rows) == replicas

    await eventually(there)


@pytest.mark.long
async def test_one_busy_replica_is_told_and_the_others_are_not(
    ingress: Ingress, busy: Callable[..., Awaitable[BusyReplica]]
) -> None:
    queue = await ingress(PATIENT)
    replicas = [await busy(queue, f"r{n}") for n in range(3)]
    await wait_for_weights(queue, 3)
    await queue.submit(new(endpoint=SDXL))
    told = await eventually_told(replicas, (SDXL,))
    for _ in range(3):
        await queue.parts.state.prefetch.look()
    assert [peer.told for peer in replicas if peer is not told] == [None, None]
    # It is leased to a replica that is free, and nothing is to be loaded any more.
    (granted,) = (await queue.ask(ask(1, replica="r9"))).leases
    assert granted.endpoint.id == SDXL
    await eventually_told([told], ())


async def test_a_replica_of_the_version_before_is_told_nothing(
    ingress: Ingress, busy: Callable[..., Awaitable[BusyReplica]]
) -> None:
    queue = await ingress(PATIENT)
    old = await busy(queue, "old", knows_hints=False)
    await wait_for_weights(queue, 1)
    await queue.submit(new(endpoint=SDXL))

    async def decided() -> bool:
        return queue.parts.state.prefetch.decided == {"old": (SDXL,)}

    await eventually(decided)
    await queue.parts.state.prefetch.look()
    assert old.told is None


@pytest.mark.long
async def test_all_ingress_processes_tell_the_same_replica(
    ingress: Ingress, busy: Callable[..., Awaitable[BusyReplica]]
) -> None:
    here, there = await ingress(PATIENT), await ingress(PATIENT)
    replicas = [await busy((here, there)[n % 2], f"r{n}") for n in range(4)]
    await wait_for_weights(here, 4)
    await here.submit(new(endpoint=SDXL))
    told = await eventually_told(replicas, (SDXL,))

    async def agree() -> bool:
        return here.parts.state.prefetch.decided == there.parts.state.prefetch.decided != {}

    await eventually(agree)
    assert [peer.told for peer in replicas if peer is not told] == [None] * 3


async def test_nothing_is_loaded_for_a_paused_endpoint(
    ingress: Ingress, busy: Callable[..., Awaitable[BusyReplica]]
) -> None:
    queue = await ingress(PATIENT)
    replica = await busy(queue, "r1")
    await queue.operations.pause(SDXL, Actor("root", ""))
    await queue.submit(new(endpoint=SDXL))
    await queue.submit(new(endpoint=WAN))
    await eventually_told([replica], (WAN,))


async def test_the_weights_of_the_endpoint_that_a_request_fell_back_to_are_loaded(
    ingress: Ingress, busy: Callable[..., Awaitable[BusyReplica]]
) -> None:
    queue = await ingress(PATIENT)
    replica = await busy(queue, "r1")
    plan = Fallback(WAN, POOL, same_pool=True)
    request = await queue.submit(new(endpoint=SDXL, fallback=plan))
    assert await queue.fallbacks.move([FallbackMove(request.id, FallbackReason.MAX_WAIT)])
    await eventually_told([replica], (WAN,))


async def eventually_told(
    replicas: Sequence[BusyReplica], endpoints: tuple[str, ...]
) -> BusyReplica:
    """Wait until one of them was told these, and return it."""

    async def told() -> bool:
        return any(peer.told == endpoints for peer in replicas)

    await eventually(told)
    return next(peer for peer in replicas if peer.told == endpoints)


def test_only_full_polls_are_ended_early() -> None:
    waiters = Waiters(SystemClock())
    key = LeaseKey("one", 1)
    full = waiters.add(ask(0, key, replica="r0"))
    free = waiters.add(ask(1, replica="r1"))
    waiters.end_full_polls(lambda _: False)
    assert not full.ready
    waiters.end_full_polls(lambda _: True)
    assert full.ready
    assert not free.ready
