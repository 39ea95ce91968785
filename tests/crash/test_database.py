"""PostgreSQL away, cut off, restarted, full, or held up by others, under load."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.request import State
from serve_app.embedded_postgres.files import ClusterFiles
from serve_app.postgres import database
from tests.crash.scene import Clients, Scene
from tests.queue.requests import new

FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file: No space left on device'
    USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON events EXECUTE FUNCTION full_disk();
"""


@contextmanager
def full_disk(conninfo: str) -> Iterator[None]:
    """Every statement that stores a line fails as on a full disk."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(FULL)
        try:
            yield
        finally:
            connection.execute("DROP FUNCTION full_disk CASCADE")


async def test_a_database_that_swallows_everything_is_said_to_be_away_and_nothing_is_lost(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not less: on a busy machine statements must still end within it afterwards.
    monkeypatch.setattr(database, "STATEMENT_LIMIT_S", 2.0)
    far, _ = await scene.ingresses(scene.far, scene.near)
    async with scene.replicas(2), Clients(scene, 3) as clients:
        await clients.go_on()
        scene.proxy.blackhole()
        with pytest.raises(DatabaseUnavailable):
            async with asyncio.timeout(60):  # the usual limit of a call is a third of that
                await far.submit(new())
        scene.proxy.heal()
        await clients.go_on()
    async with scene.replicas(2):
        await scene.check()


@pytest.mark.long
async def test_connections_that_are_reset_again_and_again_lose_nothing(scene: Scene) -> None:
    await scene.ingresses(scene.far, scene.far)
    async with scene.replicas(2), Clients(scene, 4) as clients:
        for _ in range(2):
            await clients.go_on(scene.chance.randrange(1, 15))
            scene.proxy.reset()
    async with scene.replicas(2):
        await scene.check()


@pytest.mark.long
async def test_an_immediate_restart_amid_commits_loses_nothing(
    own_scene: Scene, own_dir: Path
) -> None:
    await own_scene.ingresses(own_scene.far, own_scene.near)
    async with own_scene.replicas(2), Clients(own_scene, 4) as clients:
        for _ in range(2):
            await clients.go_on()
            own_scene.house.history.server_crashed = True
            postmaster(own_dir).send_signal(signal.SIGQUIT)
        await clients.go_on()
    async with own_scene.replicas(2):
        await own_scene.check()


def postmaster(data_dir: Path) -> psutil.Process:
    lines = (ClusterFiles(data_dir).cluster / "postmaster.pid").read_text().splitlines()
    return psutil.Process(int(lines[0]))


async def test_on_a_full_disk_nothing_is_accepted_and_what_was_made_is_handed_in_later(
    scene: Scene,
) -> None:
    (queue,) = await scene.ingresses(scene.near)
    requests = [await scene.submit(queue) for _ in range(4)]
    async with scene.replicas(2, step_s=0.1) as keeper:
        while len(scene.house.history.leases) < 4:  # noqa: ASYNC110 - replicas add to it
            await asyncio.sleep(0.01)
        with full_disk(scene.conninfo):
            with pytest.raises(DatabaseUnavailable, match="disk is full"):
                await queue.submit(new())
            while len(scene.house.objects) < 4:  # noqa: ASYNC110 - the work is done
                await asyncio.sleep(0.01)
        for request in requests:
            ended = await scene.final(request.id)
            assert (ended.state, ended.attempt) == (State.SUCCEEDED, 1)
        assert not any(replica.fenced for replica in keeper.replicas)
    await scene.check()


@pytest.mark.long
async def test_a_snapshot_that_somebody_holds_open_stops_nothing(
    scene: Scene, request: pytest.FixtureRequest
) -> None:
    """With ``--snapshot-minutes``, it is held that long, and each minute says how many requests
    ended and how long one took."""
    minutes = float(request.config.getoption("--snapshot-minutes") or 0.0)
    await scene.ingresses(scene.near, scene.near)
    async with await psycopg.AsyncConnection.connect(scene.conninfo) as stranger:
        await stranger.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await stranger.execute("SET idle_in_transaction_session_timeout = 0")
        await stranger.execute("SELECT count(*) FROM requests")
        begin = time.monotonic()
        async with scene.replicas(2, step_s=0.0):
            async with Clients(scene, 4, pause_s=0.0) as clients:
                await clients.go_on(60)
            while (time.monotonic() - begin) / 60 < minutes:
                took_s = [
                    s
                    for minute in await asyncio.gather(*(_minute(scene) for _ in range(4)))
                    for s in minute
                ]
                passed = f"minute {(time.monotonic() - begin) / 60:.0f}"
                median_ms = statistics.median(took_s) * 1000
                print(f"{passed}: {len(took_s)} ended, median {median_ms:.1f} ms", flush=True)  # noqa: T201
        async with scene.replicas(2, step_s=0.0):
            await scene.check()
        rows = await stranger.execute("SELECT count(*) FROM requests")
        assert await rows.fetchone() == (0,)  # it was open all the time


async def _minute(scene: Scene) -> list[float]:
    """Seconds that requests took to their end, for a minute one after the other."""
    took_s: list[float] = []
    begin = time.monotonic()
    while (began := time.monotonic()) < begin + 60:
        request = await scene.submit(scene.house.queues[len(took_s) % 2])
        await scene.final(request.id)
        took_s.append(time.monotonic() - began)
        await asyncio.sleep(0.1)
    return took_s
