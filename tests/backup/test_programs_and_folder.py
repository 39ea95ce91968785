"""Sentences for what goes wrong outside Darkroom: programs, disks, permissions."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from serve_app.backup.folder import explain_errors
from serve_app.backup.postgres_programs import Program, dump, find_program
from serve_app.domain.errors import DatabaseUnavailable, Misconfigured, StorageFull

NOWHERE = "host=127.0.0.1 port=1 user=nobody dbname=nothing password=secret"


def program(folder: Path, text: str) -> Program:
    path = folder / "pg_dump"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return Program(path, 18)


def test_darkroom_has_programs_for_its_own_server() -> None:
    assert find_program("pg_dump", 15).major >= 15


def test_a_server_newer_than_every_program_is_a_sentence() -> None:
    with pytest.raises(Misconfigured, match="needs pg_dump of PostgreSQL 99 or later"):
        find_program("pg_dump", 99)


def test_a_newer_program_on_the_path_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = program(tmp_path, "echo 'pg_dump (PostgreSQL) 99.1 (Debian 99.1-1)'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_program("pg_dump", 99) == Program(newest.path, 99)


def test_a_database_behind_tls_needs_a_program_of_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Misconfigured, match=r"by TLS, which Darkroom's own cannot, and there is"):
        find_program("pg_dump", 15, tls=True)
    installed = program(tmp_path, "echo 'pg_dump (PostgreSQL) 15.9'")
    assert find_program("pg_dump", 15, tls=True) == Program(installed.path, 15)


async def test_a_server_that_is_down_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="Check that the server runs"):
        await dump(find_program("pg_dump", 15), NOWHERE, "1", tmp_path / "dump")


async def test_a_full_disk_under_pg_dump_is_a_sentence(tmp_path: Path) -> None:
    full = program(tmp_path, "echo 'pg_dump: error: No space left on device' >&2; exit 1")
    with pytest.raises(StorageFull, match="Free some space"):
        await dump(full, NOWHERE, "1", tmp_path / "dump")


async def test_a_password_is_on_no_command_line(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    await dump(program(tmp_path, f'echo "$@" > {shown}'), NOWHERE, "1", tmp_path / "dump")
    assert "dbname=nothing" in shown.read_text()
    assert "secret" not in shown.read_text()


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StorageFull), (errno.EACCES, Misconfigured)]
)
def test_a_disk_that_refuses_is_a_sentence(number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="cannot be written to /backups"):
        with explain_errors("The backup cannot be written to", Path("/backups")):
            raise OSError(number, "refused")
