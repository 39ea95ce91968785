"""The metrics of a primary with a real standby."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from serve_app.postgres.database import Database
from serve_app.postgres.leader_election import LeaderElection
from serve_app.queue.store.migrations import migrate
from serve_app.queue.store.table_sizes import TableMonitor
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.queue_metrics import QueueMeter
from tests.chaos.standby import Pair, pair
from tests.contract.waiting import eventually

NAME = "walreceiver"  # of a standby without `cluster_name`
MANY_BYTES = 1_000_000


class Shown:
    """Metrics of an ingress process with this connection string."""

    def __init__(self, database: Database) -> None:
        self._registry = CollectorRegistry()
        election = LeaderElection(database, SystemClock(), "one")
        self._monitor = TableMonitor(database, election, QueueMeter(self._registry))

    async def standbys(self) -> float | None:
        await self._monitor.check()
        return self._registry.get_sample_value("darkroom_database_standbys")

    async def lag(self) -> float | None:
        await self._monitor.check()
        name = "darkroom_database_standby_lag_bytes"
        return self._registry.get_sample_value(name, {"standby": NAME})


@asynccontextmanager
async def open_metrics(conninfo: str) -> AsyncGenerator[Shown]:
    database = Database(conninfo)
    await database.start()
    try:
        yield Shown(database)
    finally:
        await database.aclose()


@pytest.fixture
async def servers() -> AsyncIterator[Pair]:
    async with pair() as running:
        await migrate(running.conninfo)
        yield running


async def test_a_standby_is_shown_with_what_it_lacks_until_it_is_gone(servers: Pair) -> None:
    async with open_metrics(servers.primary.conninfo) as metrics:

        async def has_all() -> bool:
            return await metrics.lag() == 0

        async def lacks_much() -> bool:
            return (await metrics.lag() or 0) > MANY_BYTES

        async def gone() -> bool:
            return await metrics.standbys() == 0

        await eventually(has_all)
        assert await metrics.standbys() == 1
        servers.cut()
        statement = f"SELECT pg_logical_emit_message(false, 'test', repeat('x', {2 * MANY_BYTES}))"
        await servers.primary.ask(statement)
        await eventually(lacks_much)
        servers.standby.stop()
        await servers.primary.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
        await eventually(gone)
        assert await metrics.lag() is None


@pytest.mark.long
async def test_a_role_sees_standbys_once_it_may(
    servers: Pair,
) -> None:
    with psycopg.connect(servers.primary.conninfo, autocommit=True) as operator:
        operator.execute("CREATE ROLE plain LOGIN")
        operator.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO plain")
    async with open_metrics(
        servers.primary.conninfo.replace("user=postgres", "user=plain")
    ) as metrics:
        assert await metrics.standbys() == 0
        assert await metrics.lag() is None
        with psycopg.connect(servers.primary.conninfo, autocommit=True) as operator:
            operator.execute("GRANT pg_read_all_stats TO plain")

        async def seen() -> bool:
            return await metrics.lag() is not None

        await eventually(seen)
