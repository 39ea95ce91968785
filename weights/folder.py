"""One repository on disk, in the layout of the hub's own cache, so that what other programs have
downloaded is used, and they use ours.

    models--owner--name/
        blobs/<digest>                   the files; `<digest>.part` while they come
        snapshots/<commit>/<path>        links to them: the directory that a pipeline loads
        .darkroom/                       what the hub's layout has no place for:
            listing-<commit>.json        all files of the commit, with their digests
            record.json                  which files were checked, and which are the store's own
            used                         its time is that of the last use
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from weights.digest import digest_of, known
from weights.listing import INDEX, ListedFile, Listing

OWN = ".darkroom"


def default_directory() -> Path:
    """The hub's own cache, as its variables say (HF_HUB_CACHE, HF_HOME)."""
    return Path(constants.HF_HUB_CACHE)


def repositories(directory: Path) -> Iterator[Path]:
    """Those in which the store keeps a record."""
    return (each.parent for each in sorted(directory.glob(f"models--*/{OWN}")))


class RepositoryFolder:
    """Whoever changes something here holds the repository's lock alone. Threads of one process
    may check and keep files at once."""

    def __init__(self, directory: Path, repository: str) -> None:
        self.repository = repository
        self.path = directory / repo_folder_name(repo_id=repository, repo_type="model")
        self._mutex = threading.Lock()

    @property
    def lock_path(self) -> Path:
        # Beside the folder and never removed: a lock on a file that is gone would guard nothing.
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

    def listings(self) -> Iterator[Listing]:
        for path in sorted((self.path / OWN).glob("listing-*.json")):
            listing = self.listing(path.stem.removeprefix("listing-"))
            if listing is not None:
                yield listing

    def listing_from_disk(self, revision: str) -> Listing | None:
        """Of a snapshot that another program has made: it names its blobs by their digests. None
        when there is nothing. Of shards, also those that are named and missing."""
        snapshot = self.snapshot(revision)
        files = {
            path.relative_to(snapshot).as_posix(): path
            for path in snapshot.rglob("*")
            if path.is_file()
        }
        if not files:
            return None
        index = _json(files[INDEX]) if INDEX in files else None
        listed = [
            ListedFile(name, path.stat().st_size, _named_digest(path))
            for name, path in files.items()
        ]
        for name, path in files.items():
            if name.endswith(".safetensors.index.json"):
                folder = name.rpartition("/")[0]
                named = _json(path).get("weight_map", {}).values()
                shards = {f"{folder}/{shard}" for shard in named}
                listed += [ListedFile(each, 0, "") for each in shards - files.keys()]
        return Listing(self.repository, revision, tuple(listed), index)

    def is_there(self, revision: str, file: ListedFile) -> bool:
        """Whether it has its size. The content is another question: ``is_checked``, ``check``."""
        try:
            return (self.snapshot(revision) / file.path).stat().st_size == file.size
        except OSError:
            return False

    def is_checked(self, revision: str, file: ListedFile) -> bool:
        """Whether its digest was right once, and it has not been written since."""
        if not known(file.digest):
            return self.is_there(revision, file)
        seen = self._record()["checked"].get(f"{revision}/{file.path}")
        return bool(seen) and seen == _mark(self.snapshot(revision) / file.path)

    def check(self, revision: str, file: ListedFile) -> bool:
        """Read it all and compare. Where nothing is known to compare with, what is there passes."""
        path = self.snapshot(revision) / file.path
        return not known(file.digest) or digest_of(path, file.digest) == file.digest

    def note_checked(self, revision: str, file: ListedFile, *, fetched: bool = False) -> None:
        """``fetched``: by the store, which may therefore remove it again."""
        with self._mutex:
            record = self._record()
            mark = _mark(self.snapshot(revision) / file.path)
            record["checked"][f"{revision}/{file.path}"] = mark
            if fetched and file.digest not in record["fetched"]:
                record["fetched"].append(file.digest)
            _write(self.path / OWN / "record.json", json.dumps(record, indent=1))

    def keep(self, revision: str, file: ListedFile) -> None:
        """The part is whole and right: it becomes the file."""
        part, blob = self.part(file), self.path / "blobs" / file.digest
        part.replace(blob)
        self._link(blob, self.snapshot(revision) / file.path)
        self.note_checked(revision, file, fetched=True)

    def adopt(self, revision: str, file: ListedFile) -> bool:
        """Link to a blob that another revision has; False: there is none of that size."""
        blob = self.path / "blobs" / file.digest
        try:
            if not file.digest or blob.stat().st_size != file.size:
                return False
        except OSError:
            return False
        self._link(blob, self.snapshot(revision) / file.path)
        return True

    def discard(self, revision: str, file: ListedFile) -> None:
        """A damaged file, and what it links to."""
        (self.snapshot(revision) / file.path).unlink(missing_ok=True)
        if file.digest:
            (self.path / "blobs" / file.digest).unlink(missing_ok=True)

    def bytes_of(self, revision: str, files: Sequence[ListedFile]) -> int:
        """How much of ``files`` is there, parts included."""
        return sum(
            file.size if self.is_there(revision, file) else min(self.part_bytes(file), file.size)
            for file in files
        )

    def part_bytes(self, file: ListedFile) -> int:
        try:
            return self.part(file).stat().st_size if file.digest else 0
        except OSError:
            return 0

    def touch(self) -> None:
        (self.path / OWN).mkdir(parents=True, exist_ok=True)
        (self.path / OWN / "used").touch()

    def used_at(self) -> float:
        """Seconds since 1970; 0: never."""
        try:
            return (self.path / OWN / "used").stat().st_mtime
        except OSError:
            return 0.0

    def own_bytes(self) -> int:
        """What the store itself has fetched, parts included."""
        blobs = self.path / "blobs"
        own = [blobs / digest for digest in self._record()["fetched"]]
        return sum(_size(path) for path in (*own, *blobs.glob("*.part")))

    def evict(self) -> None:
        """Remove what the store itself has fetched. What other programs have put there stays."""
        blobs = self.path / "blobs"
        own = set(self._record()["fetched"])
        for listing in list(self.listings()):
            for file in listing.files:
                if file.digest in own:
                    (self.snapshot(listing.revision) / file.path).unlink(missing_ok=True)
        for path in (*(blobs / digest for digest in own), *blobs.glob("*.part")):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.path / OWN)
        if not any(path.is_file() for path in self.path.rglob("*")):
            shutil.rmtree(self.path)

    def _listing_path(self, revision: str) -> Path:
        return self.path / OWN / f"listing-{revision}.json"

    def _record(self) -> dict[str, Any]:
        found = _json(self.path / OWN / "record.json")
        return {"checked": found.get("checked", {}), "fetched": found.get("fetched", [])}

    def _link(self, blob: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            path.symlink_to(os.path.relpath(blob, path.parent))
        except OSError:
            blob.replace(path)  # a file system without links


def _named_digest(path: Path) -> str:
    name = path.resolve().name if path.is_symlink() else ""
    return name if known(name) else ""


def _mark(path: Path) -> list[int]:
    """Changes when the file is written; empty when it is not there."""
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
    """Empty when it is not there, or no JSON object."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, text: str) -> None:
    """Whole or not at all, whatever happens in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
