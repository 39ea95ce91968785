"""Backups, restores and checks of an installation whose database falls silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from serve_app.backup import installation, postgres_programs, watchdog
from serve_app.backup.backup import back_up
from serve_app.backup.folder import BackupFolder
from serve_app.backup.installation import open_connection
from serve_app.domain.errors import DatabaseUnavailable
from tests.backup.conftest import Installations
from tests.chaos.proxy import Proxy, before_postgres, through

PATIENCE_S = 60.0


@pytest.fixture
async def proxy(conninfo: str) -> AsyncIterator[tuple[Proxy, str]]:
    between = before_postgres(conninfo)
    yield between, through(conninfo, await between.start())
    await between.aclose()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "PROBE_EVERY_S", 0.1)
    monkeypatch.setattr(watchdog, "SILENT_PROBES", 1)


async def test_a_long_statement_has_no_limit_while_the_server_answers(
    proxy: tuple[Proxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, conninfo = proxy
    probes: list[bool] = []
    ask = watchdog.answers

    async def answers(conninfo: str) -> bool:
        probes.append(await ask(conninfo))
        return True

    monkeypatch.setattr(watchdog, "answers", answers)
    async with asyncio.timeout(PATIENCE_S), open_connection(conninfo) as connection:
        (limits,) = await (
            await connection.execute(
                "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
            )
        ).fetchall()
        assert limits == ("0", "0")
        while not probes:  # none in half a second where the process stands still meanwhile
            await connection.execute("SELECT pg_sleep(0.5)")
    assert all(probes)


async def test_a_statement_ends_when_the_server_falls_silent(proxy: tuple[Proxy, str]) -> None:
    between, conninfo = proxy
    async with asyncio.timeout(PATIENCE_S), open_connection(conninfo) as connection:
        between.blackhole()
        with pytest.raises(psycopg.OperationalError):
            await connection.execute("SELECT 1")


async def test_a_backup_ends_when_the_server_falls_silent_under_pg_dump(
    proxy: tuple[Proxy, str],
    installations: Installations,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    between, conninfo = proxy
    target = await installations.make("source", conninfo)
    run = postgres_programs._run

    async def silent(*arguments: object) -> None:
        between.blackhole()
        await run(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(postgres_programs, "_run", silent)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(DatabaseUnavailable, match="run the command again"):
            await back_up(target, BackupFolder(tmp_path / "backup"))
    between.heal()


async def test_the_commands_end_if_the_server_takes_connections_and_says_nothing(
    proxy: tuple[Proxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    between, conninfo = proxy
    connect = installation.connect

    async def then_silent(conninfo: str) -> psycopg.AsyncConnection:
        connection = await connect(conninfo)
        between.blackhole()
        return connection

    monkeypatch.setattr(installation, "connect", then_silent)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(DatabaseUnavailable, match="no answer within"):
            await installation._check_server(conninfo)
