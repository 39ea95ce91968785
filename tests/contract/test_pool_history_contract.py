"""Contract of the pools' history: over the fake and over PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from serve_app.domain.operations import PoolSample
from serve_app.domain.ports import Queue
from tests.contract.queues import Make
from tests.contract.waiting import eventually
from tests.queue.database import LONG_ASKS
from tests.queue.requests import POOL, ask, new

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


async def take_samples(queue: Queue) -> list[PoolSample]:
    """Figures of ``POOL`` in the last hour, in steps of ten minutes."""
    await queue.pool_history.sample()
    samples = await queue.pool_history.read(HOUR, 10 * MINUTE)
    return [sample for sample in samples if sample.pool == POOL]


async def test_a_step_has_the_largest_figures_of_each_pool(make: Make) -> None:
    queue = await make(LONG_ASKS)
    begun = datetime.now(UTC)
    for _ in range(3):
        await queue.submit(new())

    async def are_seen() -> bool:
        figures = await take_samples(queue)
        return bool(figures) and figures[-1].queued == 3

    await eventually(are_seen)
    assert (await queue.ask(ask(2))).leases

    async def run() -> bool:
        figures = await take_samples(queue)
        return figures[-1].running == 2 and figures[-1].replicas == 1

    await eventually(run)
    samples = await take_samples(queue)
    assert max(row.queued for row in samples) == 3, "the most, not the last"
    for sample in samples:
        assert sample.at.timestamp() % 600 == 0
        assert begun - 10 * MINUTE <= sample.at <= datetime.now(UTC)
    fine = await queue.pool_history.read(HOUR, MINUTE)
    assert {row.at.second for row in fine} == {0}


async def test_nothing_is_known_of_a_time_before(make: Make) -> None:
    queue = await make()
    assert list(await queue.pool_history.read(HOUR, MINUTE)) == []
