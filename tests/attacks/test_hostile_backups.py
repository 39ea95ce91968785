"""Backups of somebody else: what no backup has is refused in a sentence, before anything of it is
read from elsewhere or written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from serve_app.backup.folder import BackupFolder, FileEntry, Manifest
from serve_app.domain.errors import Misconfigured
from tests.attacks.attempts import Attempts

CONTENT = b"an image"
KEY = "d/a/1/x.png"
MANIFEST = Manifest(1, "1", 1, "2026-01-01", 18, 18, 0, "", "", 1, 8, 0, 0, 0)


def entry(**changes: Any) -> str:
    fields = asdict(FileEntry(KEY, len(CONTENT), hashlib.sha256(CONTENT).hexdigest()))
    return json.dumps(fields | changes)


def make_backup(path: Path) -> BackupFolder:
    folder = BackupFolder(path)
    folder.create()
    folder.database.write_bytes(b"PGDMP")
    (folder.files / KEY).parent.mkdir(parents=True)
    (folder.files / KEY).write_bytes(CONTENT)
    (folder.secrets / "tls").mkdir(parents=True)
    (folder.secrets / "api_key").write_text("a:b")
    (folder.secrets / "tls" / "ca.pem").write_text("x")
    write_list(folder, entry())
    return folder


def write_list(folder: BackupFolder, line: str, **manifest: Any) -> None:
    """Write the list, and a manifest that says so."""
    folder.list.write_text(line + "\n")
    of = {"database_sha256": folder.database, "list_sha256": folder.list}
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in of.items()}
    folder.manifest.write_text(json.dumps(asdict(MANIFEST) | digests | manifest))


def read(folder: BackupFolder) -> list[Path]:
    """What a restore reads, in its order, up to the database."""
    folder.verify(folder.read_manifest())
    return [folder.file(record.key) for record in folder.entries() if record.sha256 is not None]


def replace_with_link(path: Path, to: str) -> None:
    if path.is_file():
        path.unlink()
    path.symlink_to(to)


def replace_with_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link_folder(folder: BackupFolder) -> None:
    """A folder of the files is a link."""
    (folder.files / "d").rename(folder.path.parent / "d")
    (folder.files / "d").symlink_to(folder.path.parent / "d")


KEYS = (
    *(
        "../../../out.png",
        "/etc/passwd",
        "d/../../x.png",
        ".hidden",
        "d//x",
        "",
        "d/\0x",
        "a" * 600,
    ),
    *("d\\..\\x", "C:x", "d/.", "d/x\n", "\ud800", None, 7, [KEY], {"a": 1}),
)
VALUES = (None, -1.5, "x", [], {}, True)
TRICKS: dict[str, Callable[[BackupFolder], object]] = {
    **{f"key {key!r}": lambda of, key=key: write_list(of, entry(key=key)) for key in KEYS},
    **{
        f"digest {digest!r}": lambda of, digest=digest: write_list(of, entry(sha256=digest))
        for digest in (7, "x")
    },
    **{
        f"line {line[:20]}": lambda of, line=line: write_list(of, line)
        for line in ("[]", "1", "{", "[" * 50_000, entry(more=1), "x" * 300_000)
    },
    **{
        f"manifest {name} {value!r}": lambda of, name=name, value=value: write_list(
            of, entry(), **{name: value}
        )
        for name in asdict(MANIFEST)
        for value in VALUES
        if not (isinstance(value, str) and isinstance(getattr(MANIFEST, name), str))
    },
    **{
        f"manifest is {text[:20]}": lambda of, text=text: of.manifest.write_text(text)
        for text in ("[]", "null", "{", "[" * 90_000, " " * 1_000_000, "{}")
    },
    "file is a link": lambda of: replace_with_link(of.files / KEY, "/etc/passwd"),
    "file is a device": lambda of: replace_with_link(of.files / KEY, "/dev/zero"),
    "file is a pipe": lambda of: replace_with_pipe(of.files / KEY),
    "folder is a link": link_folder,
    "dump is a device": lambda of: replace_with_link(of.database, "/dev/zero"),
    "dump is a pipe": lambda of: replace_with_pipe(of.database),
    "list is a pipe": lambda of: replace_with_pipe(of.list),
    "manifest is a pipe": lambda of: replace_with_pipe(of.manifest),
    "secret of another name": lambda of: (of.secrets / "postgres").write_text("x"),
    "secret in a folder": lambda of: (of.secrets / "ssh").mkdir(),
    "key is a link": lambda of: replace_with_link(of.secrets / "api_key", "/etc/passwd"),
    "certificate is a link": lambda of: replace_with_link(
        of.secrets / "tls" / "ca.pem", "/etc/passwd"
    ),
    "certificates are a link": lambda of: replace_with_link(of.secrets / "tls2", "/etc"),
    "certificate is a pipe": lambda of: replace_with_pipe(of.secrets / "tls" / "ca.pem"),
}


@pytest.mark.timeout(60)
def test_backups_of_others_are_refused_before_the_database_is(
    tmp_path: Path, attempts: Attempts
) -> None:
    assert read(make_backup(tmp_path / "right"))
    for number, (trick, play) in enumerate(TRICKS.items()):
        folder = make_backup(tmp_path / f"{number}" / "backup")
        play(folder)
        try:
            told = f"was taken: {read(folder)}"
        except Misconfigured:
            told = ""
        except Exception as error:
            told = f"raised {error!r:.200}"
        attempts.note(f"{trick} {told}", held=not told)
