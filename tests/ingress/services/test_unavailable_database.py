"""What clients see while the database takes no connection or says nothing, and afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from serve_app.ingress.services.health import Health, Readiness
from serve_app.postgres.database import Database
from serve_app.queue.queue import assemble
from serve_app.telemetry.clock import SystemClock
from tests.chaos.proxy import Proxy, before_postgres, through
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.ingress.house import build_house
from tests.queue.database import LONG_LEASES, conninfo, server, superuser_of

__all__ = ["conninfo", "server"]

PATIENCE_S = 60.0
ROLE = "darkroom_limited"
CONNECTIONS = 4


@asynccontextmanager
async def ingress_on(conninfo: str) -> AsyncGenerator[httpx.AsyncClient]:
    """Client of an ingress whose queue is in this database."""
    database = Database(conninfo, connections=2, limit_s=1.0)
    await database.start()
    queue = assemble(database, SystemClock(), FakeTerms(), LONG_LEASES, FakeLiveness(), "one")
    await queue.start()
    async with build_house(replica=False) as house:
        health = Health(Readiness({"database": database.check}, SystemClock()))
        house.app.state.services = replace(house.services, queue=queue, health=health)
        async with house.client() as client:
            yield client
        await house.app.state.services.background.join()
    await queue.aclose()
    await database.aclose()


@pytest.fixture
async def proxy(conninfo: str) -> AsyncGenerator[tuple[Proxy, str]]:
    between = before_postgres(conninfo)
    yield between, through(conninfo, await between.start())
    await between.aclose()


@asynccontextmanager
async def heal_at_end(between: Proxy) -> AsyncGenerator[None]:
    """Heal the proxy at the end, or what is closed then would wait for the server."""
    try:
        yield
    finally:
        between.heal()


async def until_status(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> httpx.Response:
    """The first answer with this status. Those before it are 200 or 503."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await client.request(method, path, json={} if method == "POST" else None)
            assert answer.status_code in (200, 503), answer.text
            if answer.status_code == status:
                return answer
            await asyncio.sleep(0.1)


@pytest.fixture
def limited_conninfo(conninfo: str) -> Iterator[str]:
    """Connection string of an ordinary role that may have four connections."""
    with psycopg.connect(superuser_of(conninfo), autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'own' CONNECTION LIMIT {CONNECTIONS}")
        owner.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}")
        owner.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {ROLE}")
        try:
            yield make_conninfo(conninfo, user=ROLE, password="own")
        finally:
            owner.execute(f"DROP OWNED BY {ROLE}")
            owner.execute(f"DROP ROLE {ROLE}")


async def take_all(owner: str, limited: str) -> list[psycopg.AsyncConnection]:
    """Hold every connection that the role may have, in place of those that others hold."""
    connections: list[psycopg.AsyncConnection] = []
    async with (
        asyncio.timeout(PATIENCE_S),
        await psycopg.AsyncConnection.connect(superuser_of(owner), autocommit=True) as operator,
    ):
        while len(connections) < CONNECTIONS:
            try:
                connections.append(await psycopg.AsyncConnection.connect(limited))
            except psycopg.OperationalError as error:
                assert "too many connections" in str(error)  # noqa: PT017
                await operator.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE usename = %s AND pid <> ALL(%s)",
                    (ROLE, [connection.info.backend_pid for connection in connections]),
                )
    return connections


async def test_without_a_free_connection_calls_are_refused_until_there_is_one(
    conninfo: str, limited_conninfo: str
) -> None:
    async with ingress_on(limited_conninfo) as client:
        await until_status(client, "POST", "/queue/test/probe", 200)
        connections = await take_all(conninfo, limited_conninfo)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    refused = await client.post("/queue/test/probe", json={})
                    assert refused.status_code == 503, refused.text
                    assert int(refused.headers["retry-after"]) >= 1
                    if "too many connections" in refused.json()["detail"]:
                        break
            ready = await until_status(client, "GET", "/readyz", 503)
            assert "too many connections" in ready.text
        finally:
            for connection in connections:
                await connection.close()
        await until_status(client, "POST", "/queue/test/probe", 200)
        await until_status(client, "GET", "/readyz", 200)


async def test_an_ingress_whose_database_falls_silent_is_not_ready_until_it_answers(
    proxy: tuple[Proxy, str],
) -> None:
    between, conninfo = proxy
    async with ingress_on(conninfo) as client, heal_at_end(between):
        await until_status(client, "GET", "/readyz", 200)
        between.blackhole()
        refused = await until_status(client, "GET", "/readyz", 503)
        reason = refused.text
        assert "PostgreSQL does not answer" in reason or "PostgreSQL is unavailable" in reason
        submit = await client.post("/queue/test/probe", json={})
        assert (submit.status_code, "retry-after" in submit.headers) == (503, True)
        between.heal()
        await until_status(client, "GET", "/readyz", 200)
        await until_status(client, "POST", "/queue/test/probe", 200)
