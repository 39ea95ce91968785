"""Watchdog over long work on a database: pg_dump and statements that take minutes have no limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
from psycopg.errors import ConnectionTimeout

from serve_app.postgres.database import SILENT_S, AnswerLimit, NoAnswer, settings

PROBE_EVERY_S = 10.0
SILENT_PROBES = 3
"""Probes in a row without an answer, after which the work is ended. A busy server misses one."""


@dataclass(slots=True)
class WatchedServer:
    """``silent``: the work was ended, because the server had fallen silent."""

    silent: bool = False


@asynccontextmanager
async def ended_if_silent(conninfo: str, end: Callable[[], None]) -> AsyncGenerator[WatchedServer]:
    """Call ``end`` if the server falls silent while the block runs.

    Each probe is a connection of its own. An error is an answer: the server may have no connection
    left, and the work's own goes on.
    """
    server = WatchedServer()
    probing = asyncio.create_task(_probe(conninfo, server, end))
    try:
        yield server
    finally:
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)


async def _probe(conninfo: str, server: WatchedServer, end: Callable[[], None]) -> None:
    silent = 0
    while silent < SILENT_PROBES:
        await asyncio.sleep(PROBE_EVERY_S)
        silent = 0 if await answers(conninfo) else silent + 1
    server.silent = True
    end()


async def answers(conninfo: str) -> bool:
    """Return True if the server says anything within seconds."""
    try:
        async with (
            await psycopg.AsyncConnection.connect(conninfo, **settings(conninfo)) as connection,
            AnswerLimit(connection, SILENT_S),
        ):
            await connection.execute("SELECT 1")
    except (NoAnswer, ConnectionTimeout):
        return False
    except psycopg.Error:
        return True
    return True
