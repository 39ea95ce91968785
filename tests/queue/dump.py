"""Dumps of databases by ``pg_dump``, and a server for what is dumped."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.embedded_postgres.files import ClusterFiles
from serve_app.embedded_postgres.os_user import ServerUser, programs
from tests.queue.database import until_stopped

_SECTION = re.compile(r"^--\n-- (?:Data for )?Name: .+; Type: .+; Schema: .*\n--\n\n", re.MULTILINE)


def dump(conninfo: str, *options: str) -> list[str]:
    """Statements that make a database, without owners, privileges, and statements for the session,
    which depend on the version of ``pg_dump``."""
    program = programs(None, ServerUser()) / "pg_dump"
    command = [str(program), f"--dbname={conninfo}", "--no-owner", "--no-privileges", *options]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    _, *parts = _SECTION.split(text)
    # Behind a statement come two empty lines, and then what pg_dump says about itself.
    return [sql for part in parts if (sql := part.split("\n\n\n")[0].strip())]


@asynccontextmanager
async def temporary_server() -> AsyncGenerator[str]:
    """Connection string of a server of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        postgres = EmbeddedPostgres(Path(name), grace_s=0.0)
        try:
            yield await postgres.start()
        finally:
            await postgres.aclose()
            until_stopped(ClusterFiles(Path(name)))
