"""``pg_dump`` and ``pg_restore``: which ones, and how they are run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from serve_app.backup.watchdog import ended_if_silent
from serve_app.domain.errors import DatabaseUnavailable, Misconfigured, StorageFull
from serve_app.embedded_postgres.os_user import bundled_programs
from serve_app.postgres.database import KEEPALIVES

LOCK_WAIT = "60s"  # a migration may hold its tables
_MAJOR = re.compile(r"\(PostgreSQL\) (\d+)")


@dataclass(frozen=True, slots=True)
class Program:
    path: Path
    major: int  # version of PostgreSQL that it belongs to


def find_program(name: str, at_least: int, *, tls: bool = False) -> Program:
    """The program of Darkroom's packages, or else the one on the PATH.

    ``tls``: it is to connect by TLS, which those of Darkroom's packages cannot.

    Raises ``Misconfigured`` if none is of version ``at_least`` or later: an older ``pg_dump``
    refuses a newer server, and an older ``pg_restore`` a newer dump.
    """
    programs = [
        Program(folder / name, version[0])
        for version, folder in sorted(bundled_programs().items(), reverse=True)
        if not tls and (folder / name).exists()
    ]
    on_path = shutil.which(name)
    if on_path is not None:
        programs.append(Program(Path(on_path), _major(Path(on_path))))
    for program in programs:
        if program.major >= at_least:
            return program
    have = (
        ", ".join(f"{candidate.path} is {candidate.major}" for candidate in programs)
        or "there is none"
    )
    why = ", since the database is reached by TLS, which Darkroom's own cannot" if tls else ""
    raise Misconfigured(
        f"This needs {name} of PostgreSQL {at_least} or later{why}, and {have}. Install the client "
        f"programs of PostgreSQL {at_least} on this machine and put them on the PATH."
    )


async def dump(program: Program, conninfo: str, snapshot: str, output: Path) -> None:
    """Write the rows of the exported ``snapshot`` to ``output``."""
    arguments = [
        "--format=custom",
        "--compress=1",  # by gzip; the embedded programs have no other
        "--no-owner",
        "--no-privileges",
        # Replicas and progress, which a crash of the server empties too, and who leads.
        "--no-unlogged-table-data",
        "--exclude-table-data=leaders",
        f"--lock-wait-timeout={LOCK_WAIT}",
        f"--snapshot={snapshot}",
        f"--file={output}",
    ]
    await _run(program, arguments, conninfo)


async def load(program: Program, conninfo: str, source: Path) -> None:
    """Load a dump into an empty database: completely, or not at all."""
    arguments = ["--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error"]
    await _run(program, arguments, conninfo, str(source))


async def _run(program: Program, arguments: Sequence[str], conninfo: str, *operands: str) -> None:
    # The password does not go on the command line, which every user of the machine can read.
    parts = conninfo_to_dict(make_conninfo(conninfo, **KEEPALIVES))
    password = parts.pop("password", None)
    environment = dict(os.environ)  # noqa: TID251 a child's
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    process = await asyncio.create_subprocess_exec(
        program.path,
        *arguments,
        f"--dbname={make_conninfo('', **parts)}",
        *operands,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        umask=0o077,
    )
    try:
        async with ended_if_silent(conninfo, process.kill) as server:
            _, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
    if server.silent:
        raise DatabaseUnavailable(
            f"PostgreSQL fell silent, so {program.path.name} was ended. Check the server and the "
            "network to it, then run the command again."
        )
    if process.returncode != 0:
        raise _failure(program, stderr.decode(errors="replace"))


def _failure(program: Program, output: str) -> Exception:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    first = next((line for line in lines if "error:" in line), lines[0] if lines else "no message")
    if "No space left" in output or "Disk quota" in output:
        return StorageFull(
            f"{program.path.name} ended because a disk is full ({first}). Free some space there, "
            "delete the incomplete folder, and run the command again."
        )
    if "connection to server" in output or "could not connect" in output:
        return DatabaseUnavailable(
            f"{program.path.name} lost PostgreSQL ({first}). Check that the server runs, then run "
            "the command again."
        )
    return Misconfigured(
        f"{program.path.name} failed: {first}. Correct that, then run the command again."
    )


def _major(path: Path) -> int:
    try:
        output = subprocess.run(  # noqa: S603 - a program of the PATH, with our own argument
            [path, "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    match = _MAJOR.search(output)
    return int(match[1]) if match else 0
