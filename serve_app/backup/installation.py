"""The installation that is backed up, restored or checked: its database and its storage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from serve_app.backup.watchdog import ended_if_silent
from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.embedded_postgres.files import ClusterFiles
from serve_app.postgres.database import SILENT_S, AnswerLimit, Database, settings, shut_down
from serve_app.postgres.file_places import Places, refuse_other_places
from serve_app.settings import Config, Secrets
from serve_app.storage.selection import AnyStorage, create_storage, file_places
from serve_app.telemetry.clock import SystemClock

CONNECT_S = 10
CONNECTIONS = 2


@dataclass(frozen=True, slots=True)
class OpenInstallation:
    """One installation. ``database`` is connected, ``storage`` started."""

    data_dir: Path
    database: Database
    storage: AnyStorage
    places: Places = field(default_factory=dict[str, str])  # of the files, as ``storage`` has them

    @property
    def conninfo(self) -> str:
        return self.database.conninfo


@asynccontextmanager
async def open_installation(
    config: Config, secrets: Secrets, *, create: bool = False, other_storage: bool = False
) -> AsyncGenerator[OpenInstallation]:
    """Open the installation of these settings, whether it runs or not.

    ``create``: make the data directory and its embedded database if there is none.
    ``other_storage``: also if the database says that the files are elsewhere. Raises
    ``Misconfigured`` and ``DatabaseUnavailable``.
    """
    data_dir = config.server.data_dir
    async with AsyncExitStack() as stack:
        if secrets.database_url is not None:
            conninfo = secrets.database_url.get_secret_value()
        else:
            conninfo = await _start_embedded(data_dir, stack, create=create)
        await _check_server(conninfo)
        database = Database(conninfo, connections=CONNECTIONS)
        await database.start()
        stack.push_async_callback(database.aclose)
        places = await asyncio.to_thread(file_places, config, secrets)
        if not other_storage:
            await refuse_other_places(database, places)
        # No tickets are signed here, so the signing key may be empty.
        storage = create_storage(config, secrets, b"", "", SystemClock())
        await storage.start()
        stack.push_async_callback(storage.aclose)
        yield OpenInstallation(data_dir, database, storage, places)


@asynccontextmanager
async def open_connection(
    conninfo: str, *, autocommit: bool = True
) -> AsyncGenerator[psycopg.AsyncConnection]:
    """A connection for long statements, which have no limit. It is closed if the server falls
    silent. Raises ``DatabaseUnavailable``."""
    async with (
        await connect(conninfo, autocommit=autocommit) as connection,
        ended_if_silent(conninfo, lambda: shut_down(connection)),
    ):
        yield connection


async def connect(conninfo: str, *, autocommit: bool = True) -> psycopg.AsyncConnection:
    """Connect to the database. Raises ``DatabaseUnavailable``."""
    options: dict[str, Any] = {**settings(conninfo), "connect_timeout": CONNECT_S}
    options |= {"prepare_threshold": None, "autocommit": autocommit}
    try:
        return await psycopg.AsyncConnection.connect(conninfo, **options)
    except psycopg.OperationalError as error:
        raise _unavailable(error) from error


def _unavailable(error: psycopg.OperationalError) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"PostgreSQL does not answer: {str(error).strip()}. Check that the server runs and that "
        "DARKROOM_DATABASE_URL names it, then run the command again."
    )


async def _start_embedded(data_dir: Path, stack: AsyncExitStack, *, create: bool) -> str:
    if not create and not ClusterFiles(data_dir).cluster.exists():
        raise Misconfigured(
            f"There is no Darkroom in {data_dir}. Name its data directory with --data-dir, or set "
            "DARKROOM_DATABASE_URL if it uses a PostgreSQL of your own."
        )
    postgres = EmbeddedPostgres(data_dir)
    conninfo = await postgres.start()
    stack.push_async_callback(postgres.aclose)
    return conninfo


async def _check_server(conninfo: str) -> None:
    """Fail at once where a pool would wait."""
    try:
        async with (
            await connect(conninfo) as connection,
            AnswerLimit(connection, SILENT_S),
        ):
            await connection.execute("SELECT 1")
    except psycopg.OperationalError as error:
        raise _unavailable(error) from error
