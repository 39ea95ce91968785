"""Folder of one backup, and the manifest that makes it one.

```
<folder>/                0700; every file 0600
├── manifest.json        written last: a folder without it is no backup
├── database.dump        pg_dump, custom format
├── files.jsonl          one line per file that a row of the dump names
├── files/<key>
└── secrets/             api_key and tls/ of the data directory
```
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from serve_app.domain.errors import Misconfigured, StorageFull
from serve_app.embedded_postgres.files import write_atomically

FORMAT = 1
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class Manifest:
    """Contents of a backup, as ``manifest.json`` has them."""

    format: int
    version: str  # of Darkroom
    schema_level: int  # number of the latest migration
    created_at: str  # ISO 8601; the database is as of this time
    postgres: int  # major version of the server
    pg_dump: int  # major version of the program that wrote the dump
    database_bytes: int
    database_sha256: str
    list_sha256: str  # of files.jsonl
    files: int
    files_bytes: int
    deleted: int  # files that were deleted while the backup ran
    missing: int  # files that their rows name and storage does not have
    damaged: int  # files with other bytes than were stored; left out if storage itself says so


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A line of ``files.jsonl``. ``sha256`` None: the backup does not have the file."""

    key: str
    size: int = 0
    sha256: str | None = None


class BackupFolder:
    """Paths of one backup."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.database = self.path / "database.dump"
        self.list = self.path / "files.jsonl"
        self.files = self.path / "files"
        self.secrets = self.path / "secrets"
        self.manifest = self.path / "manifest.json"

    def create(self) -> None:
        """Create the folder. Raises ``Misconfigured`` unless it is new or empty."""
        with explained("The backup cannot be written to", self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise Misconfigured(
                    f"{self.path} is not empty, and a backup never changes another one. Name a "
                    "new folder, or delete this one first if it is no longer needed."
                )
            self.path.chmod(0o700)
            self.files.mkdir(mode=0o700)

    def write_manifest(self, manifest: Manifest) -> None:
        """Make the folder a backup."""
        write_atomically(self.manifest, json.dumps(asdict(manifest), indent=2) + "\n")

    def read_manifest(self) -> Manifest:
        """Raises ``Misconfigured`` if this is no backup, or one of a newer version."""
        with explained("The backup cannot be read from", self.path):
            try:
                stored = json.loads(self.manifest.read_text(encoding="utf-8"))
                number = int(stored["format"])
            except (FileNotFoundError, NotADirectoryError):
                raise Misconfigured(
                    f"{self.path} is not a backup: it has no manifest.json, which `darkroom "
                    "backup` writes last. Name a folder whose backup was completed."
                ) from None
            except (ValueError, TypeError, KeyError):
                raise damaged(self.manifest) from None
        if number > FORMAT:
            raise Misconfigured(
                f"{self.path} was written by a newer Darkroom ({stored.get('version')}). Install "
                "that version, then restore."
            )
        try:
            return Manifest(**{each.name: stored[each.name] for each in fields(Manifest)})
        except KeyError:
            raise damaged(self.manifest) from None

    def verify(self, manifest: Manifest) -> None:
        """Raise ``Misconfigured`` if the dump or the list of files has changed. Blocks."""
        wanted = {self.database: manifest.database_sha256, self.list: manifest.list_sha256}
        with explained("The backup cannot be read from", self.path):
            for path, sha256 in wanted.items():
                if not path.exists() or digest_of(path) != sha256:
                    raise damaged(path)

    def entries(self) -> Iterator[FileEntry]:
        """Entries of ``files.jsonl``, in the order of their keys."""
        with self.list.open(encoding="utf-8") as lines:
            for line in lines:
                yield FileEntry(**json.loads(line))


def damaged(path: Path) -> Misconfigured:
    return Misconfigured(
        f"{path} is missing or damaged: it is not what the backup's manifest describes. Copy the "
        "backup again from where it was made, or restore another one."
    )


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex. Blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def explained(problem: str, path: Path) -> Generator[None]:
    """Turn an ``OSError`` into a sentence that begins with ``problem`` and names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(
                f"{problem} {path}: the disk is full. Free some space or name a folder on another "
                "disk, delete the incomplete folder, and run the command again."
            ) from error
        raise Misconfigured(
            f"{problem} {path}: {error.strerror or error}. Check the path and its permissions."
        ) from error
