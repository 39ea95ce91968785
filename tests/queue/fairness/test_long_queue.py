"""One tenant with a long queue and every slot delays another by no more than turns.

Waits are counted in leases of the pool, from the submit to the request's own lease.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import psycopg
import pytest

from serve_app.domain.lease import Lease
from serve_app.domain.outcome import Outcome, Usage
from serve_app.queue.queue import PostgresQueue
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import POOL, ask, make_finish, new

pytestmark = pytest.mark.long

MANY, SLOTS = 10_000, 4
FILL = f"""
INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input,
                      expected_s, events)
SELECT gen_random_uuid(), 'hog', 'fal-ai/flux/dev', '0', '{POOL}', 1, 'queued', '{{}}',
       %(expected_s)s, 1
FROM generate_series(1, {MANY})
"""
LANE = f"INSERT INTO fair_lanes (pool, tenant) VALUES ('{POOL}', 'hog')"


@dataclass
class Pool:
    """A pool of ``SLOTS`` slots that are never free for long: a turn ends the oldest attempt, and
    leases to its slot.
    """

    queue: PostgresQueue
    run_s: dict[str, float]  # by endpoint
    leases: int = 0
    running: deque[Lease] = field(default_factory=deque[Lease])
    submitted_at: dict[str, int] = field(default_factory=dict[str, int])
    waits: list[int] = field(default_factory=list[int])  # of the other tenant, in leases

    async def fill(self) -> None:
        for _ in range(SLOTS):
            await self._lease()

    async def submit(self) -> None:
        request = await self.queue.submit(new(tenant="bob"))
        self.submitted_at[request.id] = self.leases

    async def turn(self) -> None:
        if len(self.running) == SLOTS:
            ended = self.running.popleft()
            usage = Usage(self.run_s[ended.endpoint.id], 4, 1.0)
            await self.queue.finish(make_finish(ended.key, Outcome(output={}, usage=usage)))
        await self._lease()

    async def _lease(self) -> None:
        for granted in (await self.queue.ask(ask(1))).leases:
            self.leases += 1
            self.running.append(granted)
            at = self.submitted_at.pop(granted.request_id, None)
            if at is not None:
                self.waits.append(self.leases - at)

    @property
    def p95(self) -> int:
        return sorted(self.waits)[int(0.95 * len(self.waits))]


async def burst(pool: Pool, requests: int) -> int:
    """p95 of the waits of requests that come at once."""
    for _ in range(requests):
        await pool.submit()
    while pool.submitted_at:
        await pool.turn()
    assert len(pool.waits) == requests
    return pool.p95


@pytest.mark.parametrize("hog_s", [1.0, 60.0], ids=["as short", "sixty times as long"])
async def test_behind_ten_thousand_of_another_a_burst_waits_at_most_twice_as_many_leases_as_alone(
    ingress: Ingress, hog_s: float
) -> None:
    run_s = {"fal-ai/flux/dev": hog_s, "fal-ai/flux/schnell": 1.0}
    alone = await burst(Pool(await ingress(LONG_LEASES), run_s), 40)
    with psycopg.connect(ingress.conninfo, autocommit=True) as connection:
        connection.execute("TRUNCATE requests, attempts, events, usage, fair_lanes, costs")
        connection.execute(LANE.encode())
        connection.execute(FILL.encode(), {"expected_s": hog_s})
    pool = Pool(await ingress(LONG_LEASES), run_s)
    await pool.fill()
    assert {request.endpoint.id for request in pool.running} == {"fal-ai/flux/dev"}  # every slot
    assert await burst(pool, 40) <= 2 * alone


async def test_a_single_request_gets_one_of_the_next_two_slots_that_become_free(
    ingress: Ingress,
) -> None:
    with psycopg.connect(ingress.conninfo, autocommit=True) as connection:
        connection.execute(LANE.encode())
        connection.execute(FILL.encode(), {"expected_s": 60.0})
    run_s = {"fal-ai/flux/dev": 60.0, "fal-ai/flux/schnell": 1.0}
    pool = Pool(await ingress(LONG_LEASES), run_s)
    await pool.fill()
    for _ in range(10):
        await pool.submit()
        for _ in range(3):
            await pool.turn()
    assert len(pool.waits) == 10
    assert max(pool.waits) <= 2
