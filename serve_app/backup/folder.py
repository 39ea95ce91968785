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
import re
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from serve_app.domain.errors import Misconfigured, StorageFull
from serve_app.embedded_postgres.files import write_atomically
from serve_app.storage import keys

FORMAT = 1
_MOST_TEXT = 100_000
"""Characters of a manifest, and of a line of ``files.jsonl``."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
OnCopied = Callable[[int, int], None]
"""Gets the number of files that were copied until now, and of their bytes."""
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


def ignore_copied(_files: int, _size: int) -> None:
    """``OnCopied`` of those who do not watch."""


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
        with explain_errors("The backup cannot be written to", self.path):
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
        with explain_errors("The backup cannot be read from", self.path):
            try:
                self.manifest.lstat()
                with regular_file(self.manifest).open(encoding="utf-8") as file:
                    stored = json.loads(file.read(_MOST_TEXT))
                number = int(stored["format"])
            except (FileNotFoundError, NotADirectoryError):
                raise Misconfigured(
                    f"{self.path} is not a backup: it has no manifest.json, which `darkroom "
                    "backup` writes last. Name a folder whose backup was completed."
                ) from None
            except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
                raise damaged_backup_error(self.manifest) from None
        if number > FORMAT:
            raise Misconfigured(
                f"{self.path} was written by a newer Darkroom ({stored.get('version')}). Install "
                "that version, then restore."
            )
        try:
            manifest = Manifest(**{field.name: stored[field.name] for field in fields(Manifest)})
        except KeyError:
            raise damaged_backup_error(self.manifest) from None
        kinds = {field.name: str if field.type == "str" else int for field in fields(Manifest)}
        if any(type(value) is not kinds[name] for name, value in asdict(manifest).items()):
            raise damaged_backup_error(self.manifest)
        return manifest

    def verify(self, manifest: Manifest) -> None:
        """Raise ``Misconfigured`` if the dump or the list of files has changed, or if anything is
        there that no backup has. Blocks."""
        digests = {self.database: manifest.database_sha256, self.list: manifest.list_sha256}
        with explain_errors("The backup cannot be read from", self.path):
            for path, sha256 in digests.items():
                if digest_of(regular_file(path)) != sha256:
                    raise damaged_backup_error(path)
            self.secret_files()

    def entries(self) -> Iterator[FileEntry]:
        """Entries of ``files.jsonl``, in the order of their keys."""
        with self.list.open(encoding="utf-8") as lines:
            while line := lines.readline(_MOST_TEXT):
                yield self._entry(line)

    def _entry(self, line: str) -> FileEntry:
        """Raises ``Misconfigured`` if the line is none of ours: its key says where a file goes."""
        try:
            entry = FileEntry(**json.loads(line))
            digest = entry.sha256
            fits = keys.valid(entry.key) and (digest is None or _DIGEST.fullmatch(digest))
        except (ValueError, TypeError, RecursionError):
            raise damaged_backup_error(self.list) from None
        if not fits:
            raise damaged_backup_error(self.list)
        return entry

    def secret_files(self) -> Sequence[Path]:
        """The first key and the certificates. Raises ``Misconfigured`` if there is anything else:
        it would be written into the data directory."""
        files: list[Path] = []
        for path in sorted(self.secrets.rglob("*")):
            place = path.relative_to(self.secrets)
            if path.is_dir() and not path.is_symlink() and place.parts[0] == "tls":
                continue
            if place != Path("api_key") and place.parts[0] != "tls":
                raise damaged_backup_error(path)
            files.append(regular_file(path))
        return files

    def file(self, key: str) -> Path:
        """A file of storage in the backup. Raises ``Misconfigured`` if it is not there."""
        path = self.files / key
        if path.resolve() != self.files.resolve() / key:  # a link leads out of the backup
            raise damaged_backup_error(path)
        return regular_file(path)


def regular_file(path: Path) -> Path:
    """``path``. Raises ``Misconfigured`` if it is missing, a link, a device or a pipe: what is read
    is what the backup has."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        raise damaged_backup_error(path) from None
    if not stat.S_ISREG(mode):
        raise damaged_backup_error(path)
    return path


def damaged_backup_error(path: Path) -> Misconfigured:
    return Misconfigured(
        f"{path} is missing or damaged: it is not what the backup's manifest describes. Copy the "
        "backup again from where it was made, or restore another one."
    )


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex. Blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def explain_errors(problem: str, path: Path) -> Generator[None]:
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
