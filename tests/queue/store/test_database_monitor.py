"""Transactions that keep PostgreSQL from vacuuming, and its clock."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from serve_app.postgres.database import Database
from serve_app.queue.fairness import open_snapshots
from serve_app.queue.fairness.open_snapshots import OpenSnapshots
from serve_app.queue.queue import assemble
from serve_app.queue.store.diagnostics import DatabaseMonitor
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.queue_metrics import QueueMeter
from tests.contract.waiting import eventually
from tests.fakes.clock import FakeClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES


class Seen(QueueMeter):
    """Metrics that keep the last measurement."""

    def __init__(self) -> None:
        super().__init__(CollectorRegistry())
        self.oldest_s = 0.0
        self.transactions = 0
        self.notified = asyncio.Event()

    def oldest_transaction(self, oldest_s: float, transactions: int) -> None:
        self.oldest_s, self.transactions = oldest_s, transactions
        self.notified.set()


async def test_an_open_transaction_is_reported_until_it_ends(
    conninfo: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_snapshots, "MIN_TRANSACTIONS", 20)
    seen = Seen()
    snapshots = OpenSnapshots(database, SystemClock())
    horizon = DatabaseMonitor(database, SystemClock(), seen, snapshots.note_transactions)
    with psycopg.connect(conninfo) as forgotten:
        forgotten.execute("SELECT pg_current_xact_id()")
        for _ in range(20):
            await database.rows("SELECT pg_current_xact_id()")
        await horizon.measure()
        assert seen.transactions >= 20
        assert snapshots.open_for_long
        assert seen.oldest_s > 0
        since = seen.oldest_s

    async def ended() -> bool:
        # The server's own processes hold a snapshot for moments.
        await horizon.measure()
        return seen.transactions < 20

    await eventually(ended)
    assert not snapshots.open_for_long
    assert seen.oldest_s < since


async def test_one_that_only_reads_holds_back_too(conninfo: str, database: Database) -> None:
    seen = Seen()
    with psycopg.connect(conninfo) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1")
        for _ in range(20):
            await database.rows("SELECT pg_current_xact_id()")
        await DatabaseMonitor(
            database, SystemClock(), seen, OpenSnapshots(database, SystemClock()).note_transactions
        ).measure()
    assert seen.transactions >= 20


async def test_the_difference_of_the_clocks_is_measured(database: Database) -> None:
    registry = CollectorRegistry()
    here = FakeClock(datetime.now(UTC) - timedelta(hours=1))
    monitor = DatabaseMonitor(database, here, QueueMeter(registry), lambda _: None)
    await monitor.measure()
    ahead_s = registry.get_sample_value("darkroom_database_clock_ahead_seconds")
    assert ahead_s is not None
    assert 3595 < ahead_s < 3690


async def test_a_running_queue_measures(
    database: Database, terms: FakeTerms, liveness: FakeLiveness
) -> None:
    seen = Seen()
    queue = assemble(database, SystemClock(), terms, LONG_LEASES, liveness, "here", seen)
    await queue.start()
    await asyncio.wait_for(seen.notified.wait(), 10.0)
    await queue.aclose()
