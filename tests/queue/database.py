"""Database fixtures: one embedded PostgreSQL for the session, and a fresh database for each
test.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from serve_app.domain.rest import Rest
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.embedded_postgres.file_lock import FileLock
from serve_app.embedded_postgres.files import ClusterFiles
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import migrate
from serve_app.telemetry.clock import SystemClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.connections import LastingDatabase

T = TypeVar("T")
REFUSE_MANY = """
CREATE FUNCTION refuse_many() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM changed) > 200 THEN RAISE EXCEPTION 'too many rows at once'; END IF;
    RETURN NULL;
END
$$
"""
TABLES = (
    "webhook_deliveries", "artifacts", "usage", "events", "attempts", "requests", "progress",
    "partial_results", "drafts",
    "usage_days", "tenant_quotas", "budget_warnings", "replica_hours", "pool_minutes",
    "replicas", "fair_lanes", "costs", "audit", "api_keys", "tenants", "installation",
    "undelivered", "jobs", "halts", "uploads", "lifecycles", "webhook_keys", "leaders",
    "running_counts", "quarantines", "canary_attempts", "canaries", "warm_targets",
    "catalog_entries",
    "weight_peers", "file_access", "file_url_revocations", "tenant_deletions",
    "tenant_weights", "tenant_weight_files", "weight_files", "batches", "batch_files",
    "secrets", "hosted_calls", "fallback_budgets", "workflows", "workflow_runs", "shadows",
    "comfyui_nodes", "comfyui_files", "processes", "idempotency_keys",
)  # fmt: skip
EMPTY = "; ".join(f"DELETE FROM {table}" for table in TABLES).encode()

OWNER = "owner"
"""Role of the tests, as the docs have operators make one: it owns its database and is no superuser.
"""

_SUPERUSERS: dict[str, str] = {}  # connection strings, by host

HOLDING: list[EmbeddedPostgres] = []
"""Instances of the server fixture. Each folder that imports it has one, and they share one
server.
"""

CONNECTIONS = 3
"""Of each queue. Each connection reads the catalogue and plans the statements anew: with 8 of them,
PostgreSQL took as much CPU time again for a test of the queue."""

QUICK = QueueLimits(
    lease_s=0.6,
    first_lease_s=600.0,
    ask_wait_s=0.3,
    check_interval_s=0.1,
    max_failures=3,
    max_unconfirmed=4,
)
"""For tests of leases that run out once they are confirmed."""
UNCONFIRMED = replace(QUICK, first_lease_s=0.4)
"""For tests of leases that run out because nothing confirms them."""
LONG_LEASES = replace(QUICK, lease_s=600.0)
"""Leases that do not run out, however slow the machine."""
LONG_ASKS = replace(LONG_LEASES, ask_wait_s=60.0)
"""For polls that get something, however slow the machine."""


def until_stopped(files: ClusterFiles, patience_s: float = 30.0) -> None:
    """Wait until no supervisor runs for the server."""
    lock = FileLock(files.supervisor_lock)
    end = time.monotonic() + patience_s
    while not lock.try_exclusive():
        assert time.monotonic() < end, "PostgreSQL is still supervised"
        time.sleep(0.05)
    lock.release()


class Background:
    """Event loop in a thread, for objects that must outlive one test's loop."""

    def __enter__(self) -> Background:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Connection string of ``OWNER``."""
    data_dir = tmp_path_factory.getbasetemp() / "embedded"
    postgres = EmbeddedPostgres(data_dir, grace_s=0.5)
    HOLDING.append(postgres)
    with Background() as background:
        conninfo = _owned(background.run(postgres.start()))
        background.run(migrate(conninfo))
        yield conninfo
        end_emptying(conninfo)
        background.run(postgres.aclose())
    HOLDING.pop()
    if not HOLDING:
        until_stopped(ClusterFiles(data_dir))


def _owned(superuser: str) -> str:
    with psycopg.connect(superuser, autocommit=True) as connection:
        if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [OWNER]).fetchall():
            connection.execute(f"CREATE ROLE {OWNER} LOGIN PASSWORD 'owner' CREATEDB CREATEROLE")
            connection.execute(f"CREATE DATABASE {OWNER} OWNER {OWNER}")
            # Tests that kill the server have their own; these need not wait for the disk.
            connection.execute("ALTER SYSTEM SET synchronous_commit = off")
            connection.execute("SELECT pg_reload_conf()")
    _SUPERUSERS[str(conninfo_to_dict(superuser)["host"])] = superuser
    return make_conninfo(superuser, user=OWNER, password="owner", dbname=OWNER)


def superuser_of(server: str) -> str:
    """Connection string of the superuser of ``OWNER``'s server, in the same database."""
    parts = conninfo_to_dict(server)
    return make_conninfo(_SUPERUSERS[str(parts["host"])], dbname=parts["dbname"])


@asynccontextmanager
async def new_database(server: str, name: str) -> AsyncGenerator[str]:
    """Connection string of a database without tables, as PostgreSQL creates it.

    The event loop goes on during the DROP, which waits for every session that is being opened. A
    pool of this loop that opened one would keep it waiting for a minute, until PostgreSQL ends what
    does not authenticate itself.
    """
    superuser = superuser_of(server)  # PostgreSQL's own processes may be in it when it is dropped
    async with await psycopg.AsyncConnection.connect(superuser, autocommit=True) as maker:
        await maker.execute(f"CREATE DATABASE {name} TEMPLATE template0 OWNER {OWNER}".encode())
        try:
            yield make_conninfo(server, dbname=name)
        finally:
            await maker.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextmanager
def database_of_module(server: str, name: str, template: str = "template0") -> Iterator[str]:
    """Connection string of a copy of ``template``, to which nobody may be connected, for the tests
    of one module."""
    superuser = superuser_of(server)
    with psycopg.connect(superuser, autocommit=True) as maker:
        maker.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER {OWNER}".encode())
    try:
        yield make_conninfo(server, dbname=name)
    finally:
        with psycopg.connect(superuser, autocommit=True) as maker:
            maker.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
async def empty(server: str) -> AsyncIterator[str]:
    """Connection string of a database without tables."""
    async with new_database(server, "empty") as database_url:
        yield database_url


_EMPTYING: dict[str, psycopg.Connection] = {}


def empty_tables(server: str) -> None:
    """By one connection: one of each test would read PostgreSQL's catalogue anew, which takes 33 ms
    of CPU."""
    try:
        _emptying(server).execute(EMPTY)
    except psycopg.OperationalError:  # a test has ended all connections
        end_emptying(server)
        _emptying(server).execute(EMPTY)


def end_emptying(server: str) -> None:
    """Close the connection, for those who may be the only one."""
    if (connection := _EMPTYING.pop(server, None)) is not None:
        connection.close()


def _emptying(server: str) -> psycopg.Connection:
    if server not in _EMPTYING:
        _EMPTYING[server] = psycopg.connect(server, autocommit=True)
        _EMPTYING[server].execute("SET darkroom.prunes_audit = 'on'")  # sealed entries too
    return _EMPTYING[server]


@pytest.fixture
def conninfo(server: str) -> str:
    """Connection string of a database with all tables, all of them empty."""
    empty_tables(server)
    return server


@pytest.fixture
async def database(conninfo: str) -> AsyncIterator[Database]:
    opened = LastingDatabase(conninfo, CONNECTIONS)
    await opened.start()
    yield opened
    await opened.aclose()


@pytest.fixture
def terms() -> FakeTerms:
    return FakeTerms()


@pytest.fixture
def liveness() -> FakeLiveness:
    return FakeLiveness()


def buffers_read(plan: Sequence[str]) -> int:
    """Pages that a statement read from PostgreSQL's cache. ``plan``: lines of ``EXPLAIN (ANALYZE,
    BUFFERS)``, which leaves out what is 0."""
    assert any("actual" in line for line in plan), plan
    reads = (line.split("shared hit=")[1] for line in plan if "shared hit=" in line)
    return int(next(reads, "0").split()[0])


@asynccontextmanager
async def small_statements(database: Database, event: str, table: str) -> AsyncGenerator[None]:
    """Meanwhile a statement that changes more than 200 rows fails, as a large one does that takes
    longer than it may. ``event``: UPDATE or DELETE."""
    rows = "NEW" if event == "UPDATE" else "OLD"
    await database.rows(REFUSE_MANY)
    await database.rows(
        f"CREATE TRIGGER refuse_many AFTER {event} ON {table} REFERENCING {rows} TABLE AS changed "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_many()"
    )
    try:
        yield
    finally:
        await database.rows("DROP FUNCTION refuse_many CASCADE")


class Ingress:
    """Creates queues on one database, each like a separate ingress process."""

    def __init__(self, conninfo: str, terms: FakeTerms, liveness: FakeLiveness) -> None:
        self.conninfo = conninfo
        self._terms = terms
        self._liveness = liveness
        self._stack = AsyncExitStack()
        self._numbers = itertools.count(1)

    async def __call__(
        self,
        limits: QueueLimits = LONG_LEASES,
        edit: Callable[[PostgresQueue], None] = lambda _: None,
        rest: Rest | None = None,
    ) -> PostgresQueue:
        own = LastingDatabase(self.conninfo, CONNECTIONS)
        await own.start()
        self._stack.push_async_callback(own.aclose)
        name = f"ingress-{next(self._numbers)}"
        parts = (own, SystemClock(), self._terms, limits, self._liveness, name)
        queue = assemble(*parts, rest=rest)
        edit(queue)
        await queue.start()
        self._stack.push_async_callback(queue.aclose)
        return queue

    async def aclose(self) -> None:
        await self._stack.aclose()


@pytest.fixture
async def ingress(
    conninfo: str, terms: FakeTerms, liveness: FakeLiveness
) -> AsyncIterator[Ingress]:
    maker = Ingress(conninfo, terms, liveness)
    yield maker
    await maker.aclose()
