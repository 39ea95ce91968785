"""Fairness during a download: ten thousand requests of one tenant wait for weights, and another
tenant has one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest

from serve_app.domain.lease import Ask, Lease
from serve_app.domain.outcome import Outcome, Usage
from serve_app.queue.queue import PostgresQueue
from tests.contract.test_fairness_contract import CALM
from tests.queue.database import Ingress
from tests.queue.requests import POOL, ask, make_finish, new

SLOTS = 2
COLD, HOT, ON_DISK = "fal-ai/wan", "fal-ai/flux/schnell", "fal-ai/fast-sdxl"
FILL = f"""
INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input)
SELECT gen_random_uuid(), 'busy', '{COLD}', '0', '{POOL}', 1, 'queued', '{{}}'
FROM generate_series(1, 10000)
"""
LANE = f"INSERT INTO fair_lanes (pool, tenant) VALUES ('{POOL}', 'busy')"


@pytest.fixture
async def queue(conninfo: str, ingress: Ingress) -> AsyncIterator[PostgresQueue]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(LANE.encode())
        connection.execute(FILL.encode())
    return await ingress(replace(CALM, ask_wait_s=60.0))


def asking(slots: int, *leases: Lease, coming: tuple[str, ...] = (COLD,)) -> Ask:
    poll = ask(slots, *(active.key for active in leases))
    return replace(poll, hot=(HOT,), coming=coming)


async def run(queue: PostgresQueue, granted: Lease) -> None:
    await queue.finish(make_finish(granted.key, Outcome(output={}, usage=Usage(5.0, 4, 1.0))))


async def test_it_waits_for_no_download_and_for_one_generation_a_slot(queue: PostgresQueue) -> None:
    (downloads,) = (await queue.ask(asking(1, coming=()))).leases
    assert downloads.endpoint.id == COLD
    # The download has no slot. Requests for weights that are loaded or on disk are served at once.
    for endpoint in (HOT, ON_DISK) * 10:
        single = await queue.submit(new(tenant="bob", endpoint=endpoint))
        (granted,) = (await queue.ask(asking(SLOTS, downloads))).leases
        assert granted.request_id == single.id
        await run(queue, granted)
    await queue.parts.reaper.sweep_lanes()  # runs each second in production
    # The weights are loaded now. Requests that waited for them have saved up no turns.
    running = list((await queue.ask(asking(SLOTS - 1, downloads, coming=()))).leases)
    single = await queue.submit(new(tenant="bob", endpoint=HOT))
    ended = 0
    while all(active.request_id != single.id for active in running):
        await run(queue, running.pop(0))
        ended += 1
        running += (await queue.ask(asking(1, downloads, *running, coming=()))).leases
    assert ended <= SLOTS


async def test_a_replica_gets_an_endpoint_again_that_has_another_family_than_it_lacked(
    ingress: Ingress,
) -> None:
    """It left it out for good: its requests waited until the pool was deployed again."""
    queue = await ingress(replace(CALM, ask_wait_s=0.2))
    request = await queue.submit(new(endpoint=HOT))
    poll = replace(ask(1), coming=(HOT,))
    assert not (await queue.ask(replace(poll, lacking=((HOT, "fake"),)))).leases
    (granted,) = (await queue.ask(replace(poll, lacking=((HOT, "earlier"),)))).leases
    assert granted.request_id == request.id
