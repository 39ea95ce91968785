"""A repository on disk, in the layout of the hub's own cache, so that this store and other programs
can use each other's downloads.

    models--owner--name/
        blobs/<digest>                   the files; `<digest>.part` during the download
        snapshots/<commit>/<path>        links to them: the directory that a pipeline loads
        .darkroom/                       data that the hub's layout has no place for:
            listing-<commit>.json        all files of the commit, with their digests
            record.json                  files that were checked, and files that the store fetched
            used                         its modification time is the time of the last use
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.pipeline_index import index_file, parse_index
from weights.selection import select, select_component, select_lora

# Listing of a repository.


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of a repository."""

    path: str  # relative, with slashes
    size: int  # bytes
    digest: str  # SHA-256, or the id of a git blob; empty: unknown


@dataclass(frozen=True)
class Listing:
    """All files of a repository at a commit, with their digests."""

    repository: str  # owner/name
    revision: str  # commit
    files: tuple[ListedFile, ...]
    index: Mapping[str, Any] | None  # None: not a diffusers pipeline

    def select_files(self, weights: Weights) -> tuple[ListedFile, ...]:
        """Files of ``weights`` in this repository, largest first. ``WeightsUnavailable`` if nothing
        may be loaded, or if a path leads out of the directory."""
        paths, name = [file.path for file in self.files], self.repository
        if weights.folder is not None:
            names = select_component(paths, weights.folder, name)
        elif weights.files:
            names = frozenset(select_lora(paths, name, file) for file in weights.files)
        else:
            names = select(paths, self.index, weights.variant, name, weights.components)
        files = tuple(
            sorted(
                (file for file in self.files if file.path in names), key=lambda entry: -entry.size
            )
        )
        for listed in files:
            _refuse_escape(self.repository, listed.path)
        return files

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Listing:
        """Parse the output of ``to_json``. ``ValueError`` for anything else."""
        try:
            fields = json.loads(text)
            files = tuple(
                ListedFile(str(file["path"]), int(file["size"]), str(file["digest"]))
                for file in fields["files"]
            )
            return cls(fields["repository"], fields["revision"], files, fields["index"])
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a listing: {error!r}") from error


def _refuse_escape(repository: str, path: str) -> None:
    parts = PurePosixPath(path).parts
    if PurePosixPath(path).is_absolute() or ".." in parts or "\\" in path:
        raise WeightsUnavailable(
            f"{repository} lists a file {path!r}, which would be outside its directory. It is "
            "not downloaded."
        )


# Digests.

CHUNK_BYTES = 4 * 2**20
SHA256_DIGITS = 64
SHA1_DIGITS = 40  # of a git blob; small files have no other digest


def digest_of(path: Path, like: str) -> str:
    """Digest of the same kind as ``like``: SHA-256 in hex, or the id of a git blob. Streams the
    file. ``ValueError`` if ``like`` is neither."""
    if len(like) == SHA256_DIGITS:
        state = hashlib.sha256()
    elif len(like) == SHA1_DIGITS:
        # A git blob is hashed with its size before the content.
        state = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        raise ValueError(f"{like!r} is neither a SHA-256 nor the id of a git blob")
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


def is_supported_digest(digest: str) -> bool:
    """True if ``digest_of`` can compute digests of this kind."""
    return len(digest) in (SHA256_DIGITS, SHA1_DIGITS)


OWN = ".darkroom"
COMMIT = re.compile(r"[0-9a-f]{40}")


def default_directory() -> Path:
    """The hub's own cache, set by its environment variables (HF_HUB_CACHE, HF_HOME)."""
    return Path(constants.HF_HUB_CACHE)


def repositories(directory: Path) -> Iterator[Path]:
    """Folders of the repositories for which the store keeps a record."""
    return (path.parent for path in sorted(directory.glob(f"models--*/{OWN}")))


class RepositoryFolder:
    """Folder of one repository. To change it, hold the repository's exclusive lock. Threads of one
    process may check and keep files concurrently."""

    def __init__(self, directory: Path, repository: str) -> None:
        self.repository = repository
        self.path = directory / repo_folder_name(repo_id=repository, repo_type="model")
        self._mutex = threading.Lock()

    @property
    def lock_path(self) -> Path:
        # Outside the folder, and never removed: a lock on a deleted file would protect nothing.
        return self.path.parent / ".locks" / "darkroom" / f"{self.path.name}.lock"

    def snapshot(self, revision: str) -> Path:
        return self.path / "snapshots" / revision

    def part(self, file: ListedFile) -> Path:
        return self.path / "blobs" / f"{file.digest}.part"

    def listing(self, revision: str) -> Listing | None:
        try:
            return Listing.from_json(self._listing_path(revision).read_bytes())
        except (OSError, ValueError):
            return None

    def keep_listing(self, listing: Listing) -> None:
        _write(self._listing_path(listing.revision), listing.to_json())

    def commit_of(self, revision: str) -> str | None:
        """Commit of a branch or tag, where the hub's own library has recorded it."""
        try:
            noted = (self.path / "refs" / revision).read_text().strip()
        except OSError:
            return None
        return noted if COMMIT.fullmatch(noted) else None

    def commits(self) -> Sequence[str]:
        """Commits of which files are here."""
        snapshots = (self.path / "snapshots").glob("*")
        return sorted(path.name for path in snapshots if COMMIT.fullmatch(path.name))

    def listings(self) -> Iterator[Listing]:
        for path in sorted((self.path / OWN).glob("listing-*.json")):
            listing = self.listing(path.stem.removeprefix("listing-"))
            if listing is not None:
                yield listing

    def listing_from_disk(self, revision: str) -> Listing | None:
        """Listing of a snapshot that another program downloaded; its blobs are named by their
        digests. None if there are no files. Missing shards that an index names are included."""
        snapshot = self.snapshot(revision)
        files = {
            path.relative_to(snapshot).as_posix(): path
            for path in snapshot.rglob("*")
            if path.is_file()
        }
        if not files:
            return None
        index: dict[str, Any] | None = None
        if (own := index_file(files)) is not None:
            index = {}
            with contextlib.suppress(OSError, ValueError):
                index = parse_index(own, files[own].read_bytes(), files)
        listed = [
            ListedFile(name, path.stat().st_size, _named_digest(path))
            for name, path in files.items()
        ]
        for name, path in files.items():
            if name.endswith(".safetensors.index.json"):
                folder = name.rpartition("/")[0]
                named = _json(path).get("weight_map", {}).values()
                shards = {f"{folder}/{shard}" for shard in named}
                listed += [ListedFile(shard_path, 0, "") for shard_path in shards - files.keys()]
        return Listing(self.repository, revision, tuple(listed), index)

    def is_there(self, revision: str, file: ListedFile) -> bool:
        """True if the file has its size. ``is_checked`` and ``check`` are about the content."""
        try:
            return (self.snapshot(revision) / file.path).stat().st_size == file.size
        except OSError:
            return False

    def is_checked(self, revision: str, file: ListedFile) -> bool:
        """True if its digest was verified once, and it has not been written since."""
        if not is_supported_digest(file.digest):
            return self.is_there(revision, file)
        seen = self._record()["checked"].get(f"{revision}/{file.path}")
        return bool(seen) and seen == _mark(self.snapshot(revision) / file.path)

    def check(self, revision: str, file: ListedFile) -> bool:
        """Read the whole file and compare its digest. True if no digest is known."""
        path = self.snapshot(revision) / file.path
        return not is_supported_digest(file.digest) or digest_of(path, file.digest) == file.digest

    def note_checked(self, revision: str, file: ListedFile, *, fetched: bool = False) -> None:
        """Record a verified file. ``fetched``: by the store, which may therefore evict it."""
        with self._mutex:
            record = self._record()
            mark = _mark(self.snapshot(revision) / file.path)
            record["checked"][f"{revision}/{file.path}"] = mark
            if fetched and file.digest not in record["fetched"]:
                record["fetched"].append(file.digest)
            _write(self.path / OWN / "record.json", json.dumps(record, indent=1))

    def keep(self, revision: str, file: ListedFile) -> None:
        """Turn the complete and verified part into the file."""
        part, blob = self.part(file), self.path / "blobs" / file.digest
        part.replace(blob)
        self._link(blob, self.snapshot(revision) / file.path)
        self.note_checked(revision, file, fetched=True)

    def adopt(self, revision: str, file: ListedFile) -> bool:
        """Link to the blob of another revision. False if there is none of that size."""
        if not self._has_blob(file):
            return False
        self._link(self.path / "blobs" / file.digest, self.snapshot(revision) / file.path)
        return True

    def discard(self, revision: str, file: ListedFile) -> None:
        """Delete a damaged file and its blob."""
        (self.snapshot(revision) / file.path).unlink(missing_ok=True)
        if file.digest:
            (self.path / "blobs" / file.digest).unlink(missing_ok=True)

    def bytes_of(self, revision: str, files: Sequence[ListedFile]) -> int:
        """Bytes of ``files`` that are present, including parts. Files of equal content share a
        part, which counts once."""
        there = {file for file in files if self.is_there(revision, file)}
        coming = {file.digest: file for file in files if file not in there}
        return sum(file.size for file in there) + sum(
            min(self.part_bytes(file), file.size) for file in coming.values()
        )

    def missing_bytes(self, revision: str, files: Sequence[ListedFile]) -> int:
        """Bytes to download for ``files``. Files of equal content count once, and not at all if
        another revision has it."""
        missing = {
            file.digest or file.path: file
            for file in files
            if not self.is_there(revision, file) and not self._has_blob(file)
        }
        return sum(file.size - min(self.part_bytes(file), file.size) for file in missing.values())

    def part_bytes(self, file: ListedFile) -> int:
        try:
            return self.part(file).stat().st_size if file.digest else 0
        except OSError:
            return 0

    def touch(self) -> None:
        (self.path / OWN).mkdir(parents=True, exist_ok=True)
        (self.path / OWN / "used").touch()

    def used_at(self) -> float:
        """Time of the last use in seconds since 1970. 0: never."""
        try:
            return (self.path / OWN / "used").stat().st_mtime
        except OSError:
            return 0.0

    def own_bytes(self, files: Sequence[ListedFile] | None = None) -> int:
        """Bytes that the store itself has fetched, including parts; None: of all files."""
        blobs = self.path / "blobs"
        own = [blobs / digest for digest in self._record()["fetched"]]
        there = (*own, *blobs.glob("*.part"))
        if files is not None:
            digests = {file.digest for file in files}
            there = tuple(path for path in there if path.stem in digests)
        return sum(_size(path) for path in there)

    def evict(self) -> None:
        """Remove the files that the store itself has fetched. Those of other programs stay."""
        self.trim(())
        shutil.rmtree(self.path / OWN)
        if not any(path.is_file() for path in self.path.rglob("*")):
            shutil.rmtree(self.path)

    def trim(self, kept: Sequence[ListedFile]) -> None:
        """Remove the files that the store itself has fetched, and parts, except the contents of
        ``kept``, of all revisions. A process that has one open can still read it."""
        blobs, record = self.path / "blobs", self._record()
        digests = {kept_file.digest for kept_file in kept}
        gone = set(record["fetched"]) - digests
        for listing in list(self.listings()):
            for file in listing.files:
                if file.digest in gone:
                    (self.snapshot(listing.revision) / file.path).unlink(missing_ok=True)
                    record["checked"].pop(f"{listing.revision}/{file.path}", None)
        for path in (*(blobs / digest for digest in gone), *blobs.glob("*.part")):
            if path.stem not in digests:
                path.unlink(missing_ok=True)
        record["fetched"] = [
            fetched_digest for fetched_digest in record["fetched"] if fetched_digest in digests
        ]
        if (self.path / OWN).is_dir():
            _write(self.path / OWN / "record.json", json.dumps(record, indent=1))

    def _has_blob(self, file: ListedFile) -> bool:
        try:
            blob = self.path / "blobs" / file.digest
            return bool(file.digest) and blob.stat().st_size == file.size
        except OSError:
            return False

    def _listing_path(self, revision: str) -> Path:
        return self.path / OWN / f"listing-{revision}.json"

    def _record(self) -> dict[str, Any]:
        record = _json(self.path / OWN / "record.json")
        return {"checked": record.get("checked", {}), "fetched": record.get("fetched", [])}

    def _link(self, blob: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            path.symlink_to(os.path.relpath(blob, path.parent))
        except OSError:
            blob.replace(path)  # the file system has no links


def _named_digest(path: Path) -> str:
    name = path.resolve().name if path.is_symlink() else ""
    return name if is_supported_digest(name) else ""


def _mark(path: Path) -> list[int]:
    """Value that changes when the file is written. Empty if the file does not exist."""
    try:
        seen = path.stat()
    except OSError:
        return []
    return [seen.st_size, seen.st_mtime_ns]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _json(path: Path) -> dict[str, Any]:
    """JSON object of a file. Empty if the file does not exist or holds no JSON object."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _write(path: Path, text: str) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
