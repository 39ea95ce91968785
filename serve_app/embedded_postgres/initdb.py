"""Creation of the files of a new PostgreSQL cluster: completely, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

from serve_app.domain.atomic_file import fsync_directory
from serve_app.domain.errors import Misconfigured
from serve_app.embedded_postgres.files import ROLE, ClusterFiles, write_atomically
from serve_app.embedded_postgres.os_user import ServerUser, builder, programs

HBA = "local all all scram-sha-256\n"
OWN_DIRECTORY = "/proc/self/cwd"


def create_cluster(files: ClusterFiles, user: ServerUser) -> None:
    """Create a cluster that belongs to ``user``. Raises ``Misconfigured`` if that fails."""
    maker = builder(user)
    shutil.rmtree(files.staging_dir, ignore_errors=True)
    files.staging_dir.mkdir(mode=0o700)
    maker.take_ownership(files.staging_dir)
    if not files.password.exists():
        write_atomically(files.password, secrets.token_urlsafe(32))
    _run_initdb(files, maker)
    (files.staging_dir / "pg_hba.conf").write_text(HBA, encoding="utf-8")
    user.take_ownership(files.staging_dir)
    files.staging_dir.rename(files.cluster)
    fsync_directory(files.home)


def path_for(user: ServerUser, directory: Path) -> str:
    """Path under which the server can reach its working directory."""
    if user.uid is not None and sys.platform == "linux":
        return OWN_DIRECTORY
    return str(directory)


def environment() -> dict[str, str]:
    """Environment of the server. It has none of our variables, which hold secrets."""
    return {"LC_ALL": "C", "PATH": os.defpath}


def tail(text: str) -> str:
    """The last four lines of ``text``, joined into one."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return " / ".join(lines[-4:])


def _run_initdb(files: ClusterFiles, maker: ServerUser) -> None:
    command = [
        str(programs(None, maker) / "initdb"),
        f"--pgdata={path_for(maker, files.staging_dir)}",
        f"--username={ROLE}",
        "--pwfile=/dev/stdin",
        "--auth=scram-sha-256",
        # Iterations keep a password from being guessed. This one is random, and they cost each
        # connection 5 ms of CPU time.
        "--set=scram_iterations=1",
        "--encoding=UTF8",
        "--no-locale",
        "--no-instructions",
    ]
    with _as_a_file(files.read_password(), maker) as stdin:
        process = subprocess.run(  # noqa: S603 - our own arguments
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            cwd=files.staging_dir,
            env=environment(),
            umask=0o077,
            user=maker.uid,
            group=maker.gid,
            extra_groups=maker.groups,
        )
    if process.returncode != 0:
        output = tail(process.stdout.decode(errors="replace"))
        raise Misconfigured(f"PostgreSQL could not create its files in {files.home}: {output}")


@contextlib.contextmanager
def _as_a_file(secret: str, reader: ServerUser) -> Generator[int]:
    """A descriptor from which ``reader`` reads ``secret``, also by opening ``/dev/stdin``."""
    read_end, write_end = os.pipe()
    try:
        if reader.uid is not None and reader.gid is not None:
            os.fchown(read_end, reader.uid, reader.gid)
        os.write(write_end, secret.encode())
        os.close(write_end)
        yield read_end
    finally:
        os.close(read_end)
