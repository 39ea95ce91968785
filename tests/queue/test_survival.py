"""The queue while PostgreSQL is unavailable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil
import psycopg
import pytest

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.lease import Verdict
from serve_app.domain.request import State
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.embedded_postgres.files import ClusterFiles
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import migrate
from serve_app.telemetry.clock import SystemClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES, until_stopped
from tests.queue.requests import TENANT, ask, make_finish, new, report

T = TypeVar("T")

pytestmark = pytest.mark.crash


@pytest.fixture
def own_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    until_stopped(ClusterFiles(tmp_path))


async def start(conninfo: str, limits: QueueLimits = LONG_LEASES) -> tuple[Database, PostgresQueue]:
    database = Database(conninfo)
    await database.start()
    queue = assemble(database, SystemClock(), FakeTerms(), limits, FakeLiveness(), "one")
    await queue.start()
    return database, queue


class Clients:
    """Clients that submit until they are stopped, and keep the acknowledged requests."""

    def __init__(self, queue: PostgresQueue, count: int) -> None:
        self._queue = queue
        self._stopping = asyncio.Event()
        self.acknowledged: list[str] = []
        self._tasks = [asyncio.create_task(self._submit()) for _ in range(count)]

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def go_on(self, patience_s: float = 30.0) -> None:
        """Wait until 20 more requests were acknowledged."""
        count = len(self.acknowledged)
        async with asyncio.timeout(patience_s):
            while len(self.acknowledged) < count + 20:  # noqa: ASYNC110 - any number of tasks add
                await asyncio.sleep(0.05)

    async def _submit(self) -> None:
        while not self._stopping.is_set():
            request = new()
            try:
                await self._queue.submit(request)
            except DatabaseUnavailable:
                await asyncio.sleep(0.1)
                continue
            self.acknowledged.append(request.id)
            await asyncio.sleep(0.005)


async def replica(queue: PostgresQueue, name: str) -> None:
    """Replica that finishes each lease at once, and retries until that is answered."""
    while True:
        work = await queue.ask(ask(4, replica=name))
        for granted in work.leases:
            await until_answered(partial(queue.finish, make_finish(granted.key, replica=name)))


async def until_answered(call: Callable[[], Awaitable[T]]) -> T:
    """The server may still be away: what its processes had begun when it was killed they answer."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await call()
            except DatabaseUnavailable:
                await asyncio.sleep(0.1)


def kill_server(data_dir: Path) -> None:
    lines = (ClusterFiles(data_dir).cluster / "postmaster.pid").read_text().splitlines()
    psutil.Process(int(lines[0])).kill()


async def test_acknowledged_requests_survive_a_killed_server_and_end_once(own_dir: Path) -> None:
    embedded = EmbeddedPostgres(own_dir, grace_s=0.2)
    conninfo = await embedded.start()
    await migrate(conninfo)
    database, queue = await start(conninfo)
    clients = Clients(queue, 4)
    replicas = [asyncio.create_task(replica(queue, f"r{n}")) for n in range(2)]
    for _ in range(2):
        await asyncio.sleep(0.7)
        kill_server(own_dir)
        await clients.go_on()
    await clients.stop()
    for id_ in clients.acknowledged:
        request = await until_answered(partial(queue.wait, TENANT, id_, 60.0))
        assert request.state is State.SUCCEEDED
    for task in replicas:
        task.cancel()
    await asyncio.gather(*replicas, return_exceptions=True)
    ((billed, succeeded),) = await database.rows(
        "SELECT (SELECT count(*) FROM usage),"
        " (SELECT count(*) FROM requests WHERE state = 'succeeded')"
    )
    assert billed == succeeded >= len(clients.acknowledged)
    await queue.aclose()
    await database.aclose()
    await embedded.aclose()


async def test_while_the_database_is_away_acts_say_so_quickly(own_dir: Path) -> None:
    embedded = EmbeddedPostgres(own_dir, grace_s=0.0)
    conninfo = await embedded.start()
    await migrate(conninfo)
    database, queue = await start(conninfo)
    request = await queue.submit(new())
    (granted,) = (await queue.ask(ask(1))).leases
    await embedded.aclose()
    await asyncio.to_thread(until_stopped, ClusterFiles(own_dir))
    for act in (
        queue.submit(new()),
        queue.finish(make_finish(granted.key)),
        queue.report(report(granted.key)),
        queue.cancel(TENANT, request.id),
        queue.demand(),
    ):
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            await act
        assert time.monotonic() - began < 5.0
    assert not (await queue.ask(ask(1))).leases  # a poll waits without an error
    await embedded.start()
    assert await until_answered(partial(queue.finish, make_finish(granted.key))) is Verdict.ACCEPTED
    assert (await queue.wait(TENANT, request.id, 60.0)).state is State.SUCCEEDED
    await queue.aclose()
    await database.aclose()
    await embedded.aclose()


async def test_a_session_left_open_in_a_transaction_is_ended(conninfo: str) -> None:
    database = Database(conninfo, connections=1)
    await database.start()
    rows = await database.rows("SHOW idle_in_transaction_session_timeout")
    await database.aclose()
    assert rows == [("10s",)]
    with psycopg.connect(conninfo) as connection:
        connection.execute("SELECT 1")
