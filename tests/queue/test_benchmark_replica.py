"""The replica and the terms of leases that benchmarks of the queue use: a benchmark whose requests
get no lease waits forever."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.queue_replica import POOL, NoDeaths, NoTerms, Replica
from serve_app.domain.lease import LeaseTerms
from serve_app.domain.request import NewRequest, State
from serve_app.postgres.database import Database
from serve_app.queue.queue import assemble
from serve_app.telemetry.clock import SystemClock
from tests.queue.database import LONG_LEASES

ID = "019f0000-0000-7000-8000-000000000001"


async def test_a_replica_of_benchmarks_runs_what_is_submitted(database: Database) -> None:
    queue = assemble(database, SystemClock(), NoTerms(), LONG_LEASES, NoDeaths(), "benchmark")
    await queue.start()
    replica = asyncio.create_task(Replica(queue, "r", 2).run())
    try:
        await queue.submit(NewRequest(ID, "tenant", "noop", "0" * 16, POOL, {}))
        assert (await queue.wait("tenant", ID, 60.0)).state is State.SUCCEEDED
    finally:
        replica.cancel()
        await asyncio.gather(replica, return_exceptions=True)
        await queue.aclose()


@pytest.mark.parametrize("term", [name for name in dir(LeaseTerms) if not name.startswith("_")])
def test_the_terms_of_benchmarks_have_each_term_of_a_lease(term: str) -> None:
    assert hasattr(NoTerms(), term)
