"""Whether a PostgreSQL of the operator's own can carry the queue."""

from __future__ import annotations

import asyncio
import uuid

import psycopg
from psycopg import sql

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.queue.migrations import OLDEST_SERVER

HEARD_WITHIN_S = 3.0


async def examine(conninfo: str) -> str:
    """What it is, in a few words. ``Misconfigured`` or ``DatabaseUnavailable`` say what is wrong:
    it does not answer, is too old, may not make tables, or loses notifications."""
    try:
        async with (
            await psycopg.AsyncConnection.connect(
                conninfo, autocommit=True, connect_timeout=5
            ) as listener,
            await psycopg.AsyncConnection.connect(
                conninfo, autocommit=True, connect_timeout=5
            ) as speaker,
        ):
            version = listener.info.server_version
            if version < OLDEST_SERVER:
                raise Misconfigured(
                    f"DARKROOM_DATABASE_URL leads to PostgreSQL {version // 10_000}; "
                    "Darkroom needs 15 or later."
                )
            await _may_make_tables(speaker)
            await _hears(listener, speaker)
            return f"PostgreSQL {version // 10_000}"
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(
            f"The database of DARKROOM_DATABASE_URL does not answer: {error}"
        ) from None


async def _may_make_tables(connection: psycopg.AsyncConnection) -> None:
    cursor = await connection.execute(
        "SELECT has_schema_privilege(current_schema(), 'CREATE'), current_user, current_schema()"
    )
    row = await cursor.fetchone()
    if row is None or not row[0]:
        name, schema = (row[1], row[2]) if row else ("?", "?")
        raise Misconfigured(
            f"The role {name} may not make tables in the schema {schema}. "
            f"Run GRANT CREATE ON SCHEMA {schema} TO {name}."
        )


async def _hears(listener: psycopg.AsyncConnection, speaker: psycopg.AsyncConnection) -> None:
    """A pgbouncer that pools by transaction gives the LISTEN to one server connection, and the next
    statement to another."""
    channel = f"darkroom_{uuid.uuid4().hex}"
    await listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    await speaker.execute("SELECT pg_notify(%s, 'heard')", (channel,))
    try:
        async with asyncio.timeout(HEARD_WITHIN_S):
            async for _ in listener.notifies():
                return
    except TimeoutError:
        raise Misconfigured(
            "The database of DARKROOM_DATABASE_URL loses notifications: LISTEN does not work "
            "through a pgbouncer that pools by transaction. Connect past it, or set "
            "pool_mode = session."
        ) from None
