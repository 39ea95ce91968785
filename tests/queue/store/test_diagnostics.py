"""`darkroom doctor` on an operator's own database."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.postgres.database import Database
from serve_app.queue.store import diagnostics
from serve_app.queue.store.diagnostics import check_durability, clock_ahead_s, examine, refuse_lossy
from tests.fakes.clock import FakeClock


async def test_a_fit_database_is_named_with_its_version(conninfo: str) -> None:
    durable = make_conninfo(conninfo, options="-c synchronous_commit=on")
    description = await examine(durable)
    assert description.startswith("PostgreSQL 1")
    assert description.endswith("a failover may lose the last accepted requests")


async def test_a_server_that_loses_acknowledged_commits_is_refused(conninfo: str) -> None:
    with pytest.raises(Misconfigured, match="Set synchronous_commit = on"):
        await examine(make_conninfo(conninfo, options="-c synchronous_commit=off"))
    database = Database(make_conninfo(conninfo, options="-c synchronous_commit=off"))
    await database.start()
    with pytest.raises(Misconfigured, match="could be lost"):
        await check_durability(database)
    await database.aclose()


def test_a_synchronous_standby_is_what_a_failover_loses_nothing_with() -> None:
    assert refuse_lossy(("on", "on", "on", "ANY 1 (a, b)")) == ""
    assert "may lose" in refuse_lossy(("local", "on", "on", "a"))
    for lossy in (("off", "on", "on", "a"), ("on", "off", "on", ""), ("on", "on", "off", "")):
        with pytest.raises(Misconfigured):
            refuse_lossy(lossy)


@pytest.mark.parametrize(("ahead_s", "words"), [(3600.0, "behind"), (-3600.0, "ahead of")])
async def test_clocks_that_differ_are_said_with_what_fails(
    conninfo: str, monkeypatch: pytest.MonkeyPatch, ahead_s: float, words: str
) -> None:
    here = FakeClock(datetime.now(UTC) + timedelta(seconds=ahead_s))
    monkeypatch.setattr(diagnostics, "SystemClock", lambda: here)
    with pytest.raises(Misconfigured, match=rf"clock is 3\d+ s {words} .* by NTP"):
        await examine(conninfo)


def test_a_slow_answer_makes_no_difference_of_clocks() -> None:
    asked_at = datetime.now(UTC)
    assert (
        clock_ahead_s(asked_at + timedelta(seconds=50), asked_at, asked_at + timedelta(seconds=60))
        == 0
    )
    assert (
        clock_ahead_s(asked_at + timedelta(seconds=70), asked_at, asked_at + timedelta(seconds=60))
        == 10
    )
    assert (
        clock_ahead_s(asked_at - timedelta(seconds=5), asked_at, asked_at + timedelta(seconds=60))
        == -5
    )


async def test_a_database_that_does_not_answer_is_said() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"cannot be used: .*Connection refused"):
        await examine("host=127.0.0.1 port=1 user=nobody")


async def test_for_a_role_that_may_not_make_tables_the_error_says_what_to_run(
    conninfo: str,
) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        await connection.execute("DROP ROLE IF EXISTS poor")
        await connection.execute("CREATE ROLE poor LOGIN PASSWORD 'poor'")
        await connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    try:
        with pytest.raises(Misconfigured, match="GRANT CREATE ON SCHEMA public TO poor"):
            await examine(make_conninfo(conninfo, user="poor", password="poor"))
    finally:
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
            await connection.execute("DROP ROLE poor")


async def test_a_pooler_that_loses_notifications_is_found_out(
    conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as listener,
        await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as other,
    ):
        # As through a pgbouncer that pools by transaction: the LISTEN went to another server
        # connection.
        monkeypatch.setattr(diagnostics, "NOTIFICATION_TIMEOUT_S", 0.2)
        deaf = psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        async with await deaf as third:
            await listener.execute("SELECT 1")
            with pytest.raises(Misconfigured, match="pool_mode = session"):
                await diagnostics._check_notifications(_Switched(third, listener), other)  # type: ignore[arg-type]


class _Switched:
    """Connection that sends statements to one connection and awaits notifications on another."""

    def __init__(
        self, statements: psycopg.AsyncConnection, notifications: psycopg.AsyncConnection
    ) -> None:
        self.execute = statements.execute
        self.notifies = notifications.notifies
