"""The overview that all operators of a process share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from serve_app.postgres.database import Database
from serve_app.postgres.fair_reads import FairReads
from serve_app.queue.fairness.pauses import Pauses
from serve_app.queue.overview import DUTY_FACTOR, FRESH_S, LANES, OverviewReader
from tests.fakes.clock import FakeClock
from tests.queue.database import Ingress
from tests.queue.requests import new


class CountedReads(FairReads):
    """Reads that count how often the lanes are read. A read of them takes ``takes_s``."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        super().__init__(database)
        self._clock = clock
        self.takes_s = 0.0
        self.counted = 0
        self.begun = asyncio.Event()

    async def rows(
        self, tenant: str | None, sql: str, params: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        if sql is LANES:
            self.counted += 1
            self.begun.set()
            self._clock.advance(self.takes_s)
        return await super().rows(tenant, sql, params)


async def test_operators_who_look_at_once_or_soon_after_share_one_overview(
    database: Database, ingress: Ingress
) -> None:
    clock = FakeClock()
    reads = CountedReads(database, clock)
    reader = OverviewReader(reads, Pauses(database), clock)
    queue = await ingress()
    await queue.submit(new())
    several = await asyncio.gather(*(reader.overview() for _ in range(20)))
    assert {overview.lanes[0].queued for overview in several} == {1}
    assert reads.counted == 1
    await queue.submit(new())
    clock.advance(FRESH_S - 0.1)
    assert (await reader.overview()).lanes[0].queued == 1
    clock.advance(0.1)
    assert (await reader.overview()).lanes[0].queued == 2
    assert reads.counted == 2


async def test_an_overview_that_takes_long_is_read_a_tenth_of_the_time(database: Database) -> None:
    clock = FakeClock()
    reads = CountedReads(database, clock)
    reader = OverviewReader(reads, Pauses(database), clock)
    reads.takes_s = 2.0
    await reader.overview()
    clock.advance(DUTY_FACTOR * reads.takes_s - 0.1)
    await reader.overview()
    assert reads.counted == 1
    clock.advance(0.1)
    await reader.overview()
    assert reads.counted == 2


async def test_an_overview_from_before_an_operation_is_not_kept(database: Database) -> None:
    clock = FakeClock()
    reads = CountedReads(database, clock)
    reader = OverviewReader(reads, Pauses(database), clock)
    looking = asyncio.create_task(reader.overview())
    await reads.begun.wait()
    reader.forget()
    await looking
    await reader.overview()
    assert reads.counted == 2
