"""What benchmarks of the queue use: a benchmark whose requests get no lease waits forever."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.idle_slots import idle_time
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


def test_idle_time_is_what_no_request_holds_while_it_is_measured() -> None:
    intervals = [(0, 8.0, 10.5), (0, 11.0, 12.0), (0, 12.25, 99.0), (1, 30.0, 31.0)]
    idle = idle_time([intervals, [(0, 5.0, 25.0), (1, 10.0, 20.0)]], 2, 10.0, 20.0)
    assert idle.share == pytest.approx((0.5 + 0.25 + 10.0) / 40)
    assert idle.long_share == idle.share
    assert idle.waits_ms == [500.0, 250.0]
    assert idle.rate == pytest.approx(0.2)
