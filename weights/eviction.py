"""The cap of the store: which repositories make room for another one.

Only what the store itself has fetched counts and is evicted; the directory may be shared with
other programs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serve_app.domain.errors import WeightsUnavailable
from weights.disk import gigabytes
from weights.folder import OWN, RepositoryFolder, repositories
from weights.lock import RepositoryLock

log = logging.getLogger(__name__)

CAP = "DARKROOM_WEIGHTS_MAX_BYTES"


@dataclass(frozen=True, slots=True)
class Resident:
    """A repository in the store."""

    repository: str
    size: int  # bytes that the store has fetched, or has promised to
    used_at: float  # s since 1970


def order_of_eviction(residents: Sequence[Resident], surplus: int) -> list[Resident]:
    """The least recently used, until ``surplus`` bytes are gone; those in use are passed over by
    whoever evicts, so all that may be needed are named."""
    return sorted(residents, key=lambda each: each.used_at) if surplus > 0 else []


def make_room(directory: Path, folder: RepositoryFolder, missing_bytes: int, cap: int) -> None:
    """Promise ``missing_bytes`` to ``folder``, and evict others until all promises fit ``cap``.

    Its caller holds the lock of ``folder`` alone. ``WeightsUnavailable`` when they do not fit.
    """
    if not cap:
        return
    lock = RepositoryLock(directory / ".locks" / "darkroom" / "room.lock")
    lock.take()
    try:
        wanted = folder.own_bytes() + missing_bytes
        if wanted > cap:
            raise WeightsUnavailable(
                f"{folder.repository} takes {gigabytes(wanted)}, and the weights may take "
                f"{gigabytes(cap)} in all: raise {CAP}, or set it to 0 for no cap."
            )
        others = [each for each in _residents(directory) if each.repository != folder.repository]
        surplus = wanted + sum(each.size for each in others) - cap
        for each in order_of_eviction(others, surplus):
            if surplus > 0 and _evicted(directory, each):
                surplus -= each.size
        if surplus > 0:
            raise WeightsUnavailable(
                f"{folder.repository} takes {gigabytes(wanted)}, {gigabytes(surplus)} over the "
                f"cap of {gigabytes(cap)}: the other weights are in use. Raise {CAP}."
            )
        _promise(folder.path, wanted)
    finally:
        lock.release()


def keep_promise(folder: RepositoryFolder) -> None:
    """Everything has come: from now on what is there counts."""
    (folder.path / OWN / "promised").unlink(missing_ok=True)


def _residents(directory: Path) -> list[Resident]:
    found: list[Resident] = []
    for path in repositories(directory):
        folder = RepositoryFolder(directory, repository_of(path))
        size = max(folder.own_bytes(), _promised(path))
        if size:
            found.append(Resident(folder.repository, size, folder.used_at()))
    return found


def repository_of(path: Path) -> str:
    """owner/name, of a folder of the hub's cache. Neither part of a name holds two hyphens."""
    return path.name.removeprefix("models--").replace("--", "/")


def _evicted(directory: Path, resident: Resident) -> bool:
    folder = RepositoryFolder(directory, resident.repository)
    lock = RepositoryLock(folder.lock_path)
    try:
        if not lock.try_take():
            return False  # loaded or fetched just now
        log.info("Evicting %s: %s.", resident.repository, gigabytes(resident.size))
        folder.evict()
        return True
    finally:
        lock.release()


def _promise(path: Path, size: int) -> None:
    (path / OWN).mkdir(parents=True, exist_ok=True)
    (path / OWN / "promised").write_text(str(size))


def _promised(path: Path) -> int:
    try:
        return int((path / OWN / "promised").read_text())
    except (OSError, ValueError):
        return 0
