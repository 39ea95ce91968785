"""Tests share the sessions of PostgreSQL, but never a broken one."""

from __future__ import annotations

import psycopg

from serve_app.postgres.database import shut_down
from tests.queue.connections import LastingConnection, LastingDatabase

SESSION = "SELECT pg_backend_pid()"


async def session_of(conninfo: str) -> int:
    database = LastingDatabase(conninfo, connections=1)
    await database.start()
    session = await database.value(SESSION)
    await database.aclose()
    return session


async def test_the_session_of_a_closed_database_serves_the_next_one(conninfo: str) -> None:
    assert await session_of(conninfo) == await session_of(conninfo)


async def test_a_session_that_has_ended_meanwhile_serves_nobody(conninfo: str) -> None:
    session = await session_of(conninfo)
    async with await psycopg.AsyncConnection.connect(conninfo) as other:
        await other.execute("SELECT pg_terminate_backend(%s, 10000)", [session])
    assert await session_of(conninfo) != session


async def test_a_connection_that_was_shut_down_serves_nobody(conninfo: str) -> None:
    connection = await LastingConnection.connect(conninfo)
    shut_down(connection)
    await connection.close()
    assert connection.closed
    next_one = await LastingConnection.connect(conninfo)
    assert next_one is not connection
    await next_one.close()
