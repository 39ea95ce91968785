"""The embedded PostgreSQL when its processes are killed, stopped or started at the wrong time."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from serve_app.domain.errors import Misconfigured
from serve_app.embedded_postgres.embedded import PACKAGES, EmbeddedPostgres
from serve_app.embedded_postgres.files import ClusterFiles
from tests.queue.database import until_stopped

pytestmark = pytest.mark.crash

GRACE_S = 0.4
HOLD = """
import asyncio, sys
from pathlib import Path
from serve_app.embedded_postgres.embedded import EmbeddedPostgres

async def hold():
    await EmbeddedPostgres(Path(sys.argv[1]), grace_s=float(sys.argv[2])).start()
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(hold())
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One directory for all tests here, because creating a cluster is slow. Each test leaves it
    ready to start.
    """
    own = tmp_path_factory.mktemp("data")

    async def once() -> None:
        async with run_postgres(own) as conninfo, await connect(conninfo) as connection:
            await connection.execute("CREATE TABLE kept (n integer)")

    asyncio.run(once())
    yield own
    until_stopped(ClusterFiles(own))


@asynccontextmanager
async def run_postgres(data_dir: Path) -> AsyncIterator[str]:
    postgres = EmbeddedPostgres(data_dir, grace_s=GRACE_S)
    yield await postgres.start()
    await postgres.aclose()


async def connect(conninfo: str) -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(conninfo, autocommit=True, connect_timeout=5)


async def value(conninfo: str, sql: str) -> object:
    async with await connect(conninfo) as connection:
        row = await (await connection.execute(sql)).fetchone()
        return row[0] if row else None


async def when_it_answers(conninfo: str, sql: str, patience_s: float = 60.0) -> object:
    end = time.monotonic() + patience_s
    while True:
        try:
            return await value(conninfo, sql)
        except psycopg.OperationalError:
            assert time.monotonic() < end, "PostgreSQL did not come back"
            await asyncio.sleep(0.05)


def postmaster(data_dir: Path) -> psutil.Process:
    lines = (ClusterFiles(data_dir).cluster / "postmaster.pid").read_text().splitlines()
    return psutil.Process(int(lines[0]))


def supervisor(data_dir: Path) -> psutil.Process | None:
    for process in psutil.process_iter():
        try:
            arguments = process.cmdline()
        except psutil.Error:
            continue
        if "serve_app.embedded_postgres.supervisor" in arguments and str(data_dir) in arguments:
            return process
    return None


def holder(data_dir: Path) -> subprocess.Popen[str]:
    """Start another process that holds the database."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(data_dir), str(GRACE_S)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.defpath, "PYTHONPATH": str(PACKAGES)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def place_of(conninfo: str) -> Path:
    """Directory of the server's socket."""
    return Path(str(conninfo_to_dict(conninfo)["host"]))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def sleeper(uid: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"], user=uid if os.geteuid() == 0 else None)


def copy(data_dir: Path, to: Path) -> None:
    """Copy the data directory and keep the owner of the server's files, unlike
    `shutil.copytree`.
    """
    subprocess.run(["cp", "-a", str(data_dir), str(to)], check=True)


STARTED = "SELECT pg_postmaster_start_time()"


async def test_it_listens_on_a_private_socket_and_asks_for_a_password(data_dir: Path) -> None:
    async with run_postgres(data_dir) as conninfo:
        assert await value(conninfo, "SHOW listen_addresses") == ""
        assert await value(conninfo, "SHOW fsync") == "on"
        assert mode(place_of(conninfo)) == 0o700
        assert mode(ClusterFiles(data_dir).password) == 0o600
        with pytest.raises(psycopg.OperationalError, match="password"):
            await value(make_conninfo(conninfo, password="guess"), "SELECT 1")
        connections = postmaster(data_dir).net_connections(kind="inet")
        assert connections == []


async def test_its_random_password_costs_a_connection_no_iterations(data_dir: Path) -> None:
    async with run_postgres(data_dir) as conninfo:
        stored = await value(conninfo, "SELECT rolpassword FROM pg_authid WHERE rolcanlogin")
        assert stored.startswith("SCRAM-SHA-256$1:")


async def test_variables_for_connections_to_another_database_do_not_count(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = {
        "PGHOSTADDR": "203.0.113.1",
        "PGSERVICE": "company",
        "PGSSLMODE": "verify-full",
        "PGCHANNELBINDING": "require",
        "PGOPTIONS": "--no.such=option",
    }
    for name, text in elsewhere.items():
        monkeypatch.setenv(name, text)
    postgres = EmbeddedPostgres(data_dir, grace_s=GRACE_S, stall_s=3.0)
    assert await value(await postgres.start(), "SELECT 1") == 1
    await postgres.aclose()


async def test_its_supervisor_s_python_finds_its_library_where_this_one_does(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/python/lib")
    await asyncio.to_thread(until_stopped, ClusterFiles(data_dir))  # that of the test before
    async with run_postgres(data_dir):
        running = supervisor(data_dir)
        assert running is not None
        assert running.environ()["LD_LIBRARY_PATH"] == "/opt/python/lib"
        assert "HOME" not in running.environ()


async def test_it_does_not_run_as_root(data_dir: Path) -> None:
    async with run_postgres(data_dir):
        assert postmaster(data_dir).uids().effective != 0


async def test_a_second_start_joins_the_server_that_runs(data_dir: Path) -> None:
    async with run_postgres(data_dir) as conninfo:
        started = await value(conninfo, STARTED)
        second = EmbeddedPostgres(data_dir, grace_s=GRACE_S)
        assert await second.start() == conninfo
        assert await value(conninfo, STARTED) == started
        await second.aclose()
        await asyncio.sleep(3 * GRACE_S)
        assert await value(conninfo, STARTED) == started


async def test_starts_at_the_same_time_share_one_server(data_dir: Path) -> None:
    servers = [EmbeddedPostgres(data_dir, grace_s=GRACE_S) for _ in range(5)]
    infos = await asyncio.gather(*(postgres.start() for postgres in servers))
    assert len(set(infos)) == 1
    await asyncio.gather(*(postgres.aclose() for postgres in servers))


async def test_it_stops_when_no_process_holds_it(data_dir: Path) -> None:
    async with run_postgres(data_dir):
        server = postmaster(data_dir)
    until_stopped(ClusterFiles(data_dir))
    assert not server.is_running()
    assert supervisor(data_dir) is None


async def test_it_stops_when_its_last_holder_is_killed(data_dir: Path) -> None:
    process = holder(data_dir)
    server = postmaster(data_dir)
    kill(process)
    until_stopped(ClusterFiles(data_dir))
    assert not server.is_running()


async def test_a_start_while_it_stops_waits_and_starts_it_again(data_dir: Path) -> None:
    for _ in range(4):
        postgres = EmbeddedPostgres(data_dir, grace_s=0.0)
        conninfo = await postgres.start()
        assert await value(conninfo, "SELECT 1") == 1
        await postgres.aclose()


async def test_a_killed_supervisor_is_replaced_and_the_server_goes_on(data_dir: Path) -> None:
    async with run_postgres(data_dir) as conninfo:
        started = await value(conninfo, STARTED)
        first = supervisor(data_dir)
        assert first is not None
        first.kill()
        assert await value(conninfo, STARTED) == started
        end = time.monotonic() + 60
        while (second := supervisor(data_dir)) is None or second.pid == first.pid:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        assert await value(conninfo, STARTED) == started


async def test_the_supervisor_stays_while_the_server_s_log_is_gone(data_dir: Path) -> None:
    async with run_postgres(data_dir) as conninfo:
        first = supervisor(data_dir)
        assert first is not None
        ClusterFiles(data_dir).server_log.unlink()  # like an operator whose disk is full
        await asyncio.sleep(1)
        again = supervisor(data_dir)
        assert again is not None
        assert again.pid == first.pid
        assert await value(conninfo, "SELECT 1") == 1
    until_stopped(ClusterFiles(data_dir))


async def test_a_killed_server_is_started_again_with_its_data(data_dir: Path) -> None:
    async with run_postgres(data_dir) as conninfo:
        for n in range(3):
            async with await connect(conninfo) as connection:
                await connection.execute("INSERT INTO kept VALUES (%s)", (n,))
            postmaster(data_dir).kill()
            assert await when_it_answers(conninfo, "SELECT count(*) FROM kept") == n + 1


async def test_whatever_is_killed_in_whatever_order_the_next_start_works(data_dir: Path) -> None:
    async with run_postgres(data_dir) as conninfo, await connect(conninfo) as connection:
        await connection.execute("DELETE FROM kept")
    for n, order in enumerate(itertools.permutations(["holder", "server", "supervisor"])):
        process = holder(data_dir)
        async with await connect(conninfo) as connection:
            rows = await (await connection.execute("SELECT n FROM kept ORDER BY n")).fetchall()
            assert [row[0] for row in rows] == list(range(n)), f"before {order}"
            await connection.execute("INSERT INTO kept VALUES (%s)", (n,))
        server, watcher = postmaster(data_dir), supervisor(data_dir)
        assert watcher is not None
        for victim in order:
            if victim == "holder":
                kill(process)
            else:
                (server if victim == "server" else watcher).kill()


@pytest.mark.long
async def test_a_pid_file_that_names_somebody_else_s_process_is_no_server(data_dir: Path) -> None:
    process = holder(data_dir)
    server, watcher = postmaster(data_dir), supervisor(data_dir)
    assert watcher is not None
    pid_file = ClusterFiles(data_dir).cluster / "postmaster.pid"
    for target in (watcher, server):
        target.kill()
    kill(process)
    # A live process of the same user, which PostgreSQL itself would mistake for a running server.
    stranger = sleeper(ClusterFiles(data_dir).cluster.stat().st_uid)
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
    try:
        async with run_postgres(data_dir) as conninfo:
            assert await value(conninfo, "SELECT 1") == 1
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.long
async def test_a_supervisor_that_is_asked_to_end_stops_the_server(data_dir: Path) -> None:
    process = holder(data_dir)
    server, watcher = postmaster(data_dir), supervisor(data_dir)
    assert watcher is not None
    process.send_signal(signal.SIGSTOP)  # so that it does not start another
    watcher.terminate()
    until_stopped(ClusterFiles(data_dir))
    assert not server.is_running()
    kill(process)


async def test_a_path_that_is_too_long_for_a_socket_gets_a_private_directory_elsewhere(
    data_dir: Path, tmp_path: Path
) -> None:
    async with run_postgres(data_dir):
        crashed = ClusterFiles(data_dir).note.read_text()
    until_stopped(ClusterFiles(data_dir))
    own = tmp_path / ("a-long-name-" * 12)
    copy(data_dir, own)
    ClusterFiles(own).note.write_text(crashed)
    async with run_postgres(own) as conninfo:
        place = place_of(conninfo)
        assert not place.is_relative_to(own)
        assert not place.is_relative_to(data_dir)
        assert mode(place) == 0o700
        postmaster(own).kill()
        assert await when_it_answers(conninfo, "SELECT 1") == 1
    until_stopped(ClusterFiles(own))
    assert not await asyncio.to_thread(place.exists)
    shutil.rmtree(own)


async def test_a_place_that_does_not_do_is_named(tmp_path: Path) -> None:
    (tmp_path / "postgres").write_text("not a directory")
    with pytest.raises(Misconfigured, match="DARKROOM_DATA_DIR"):
        await EmbeddedPostgres(tmp_path).start()


async def test_a_cluster_of_another_version_is_refused_with_words(data_dir: Path) -> None:
    until_stopped(ClusterFiles(data_dir))
    version = ClusterFiles(data_dir).cluster / "PG_VERSION"
    was = version.read_text()
    version.write_text("12\n")
    with pytest.raises(Misconfigured, match="PostgreSQL 12"):
        await EmbeddedPostgres(data_dir, grace_s=GRACE_S).start()
    until_stopped(ClusterFiles(data_dir))
    version.write_text(was)


async def test_a_cluster_that_was_half_made_is_made_again(tmp_path: Path) -> None:
    files = ClusterFiles(tmp_path)
    files.staging_dir.mkdir(parents=True)
    (files.staging_dir / "PG_VERSION").write_text("18\n")
    async with run_postgres(tmp_path) as conninfo:
        assert await value(conninfo, "SELECT 1") == 1
    until_stopped(files)
