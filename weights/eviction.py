"""Size limit of the store: eviction of repositories, and of their other revisions, to make space.

Only files that the store itself has fetched are counted and evicted, because other programs may
share the directory.
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.preflight import SPARE_BYTES, gigabytes
from weights.derived import shrink
from weights.folder import OWN, ListedFile, Listing, RepositoryFolder, repositories
from weights.lock import RepositoryLock

# Disk space.

DERIVED_SHARE = 0.2
"""Share of a disk for derived files, where the store has no limit."""

FREE_SPACE_HINT = (
    "Free some space, or choose a directory on a larger disk (DARKROOM_WEIGHTS_DIR; without it, "
    "HF_HOME decides)."
)


DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)


def free_bytes(directory: Path) -> int:
    """Free bytes on the disk of ``directory``, which need not exist yet."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return shutil.disk_usage(directory).free


def check_room(directory: Path, repository: str, missing_bytes: int) -> None:
    """Raise ``WeightsUnavailable`` if ``missing_bytes`` more would leave too little free space."""
    free = free_bytes(directory)
    lacking = missing_bytes + SPARE_BYTES - free
    if missing_bytes and lacking > 0:
        raise WeightsUnavailable(
            f"{repository} needs {gigabytes(missing_bytes)} more on the disk of {directory}, where "
            f"{gigabytes(free)} are free: with {gigabytes(SPARE_BYTES)} to spare, "
            f"{gigabytes(lacking)} are missing. {FREE_SPACE_HINT}"
        )


def explain(error: OSError, directory: Path, repository: str) -> WeightsUnavailable:
    """Error message for a file system error while ``repository`` was written to ``directory``."""
    if error.errno in DISK_FULL_ERRNOS:
        return WeightsUnavailable(
            f"The disk of {directory} became full while {repository} was downloaded. "
            f"{FREE_SPACE_HINT}"
        )
    return WeightsUnavailable(
        f"{repository} cannot be written to {directory} ({error.strerror or error}). Change its "
        "owner, or choose another directory (DARKROOM_WEIGHTS_DIR)."
    )


log = logging.getLogger(__name__)

CAP = "DARKROOM_WEIGHTS_MAX_BYTES"


@dataclass(frozen=True, slots=True)
class StoredRepository:
    """A repository in the store."""

    repository: str
    size: int  # bytes that the store has fetched or reserved
    used_at: float  # s since 1970


def order_of_eviction(
    residents: Sequence[StoredRepository], surplus: int
) -> list[StoredRepository]:
    """Residents by last use, oldest first, if there is a surplus. All are returned, because the
    caller skips those in use."""
    return sorted(residents, key=lambda resident: resident.used_at) if surplus > 0 else []


def make_room(
    directory: Path,
    folder: RepositoryFolder,
    listing: Listing,
    needed: Sequence[ListedFile],
    cap: int,
) -> None:
    """Reserve what is missing of ``needed``, files of ``listing``, and evict until all reservations
    fit: other revisions of ``folder``, then other repositories, and last its other files.

    The caller holds the exclusive lock of ``folder``. ``WeightsUnavailable`` if they do not fit.
    """
    if not cap:
        return
    lock = RepositoryLock(directory / ".locks" / "darkroom" / "room.lock")
    lock.take()
    try:
        missing = folder.missing_bytes(listing.revision, needed)
        least = folder.own_bytes(needed) + missing
        if least > cap:
            raise WeightsUnavailable(
                f"{folder.repository} takes {gigabytes(least)}, but all weights together may take "
                f"only {gigabytes(cap)}: raise {CAP}, or set it to 0 for no limit."
            )
        others = [repo for repo in _residents(directory) if repo.repository != folder.repository]
        taken = sum(repo.size for repo in others) + missing
        if folder.own_bytes() + taken > cap:
            _trim(folder, listing.files)
        if folder.own_bytes() + missing > cap:
            _trim(folder, needed)
        surplus = folder.own_bytes() + taken - cap
        shrink(directory, max(0, -surplus))  # they can be computed again
        for resident in order_of_eviction(others, surplus):
            if surplus > 0 and _try_evict(directory, resident):
                surplus -= resident.size
        if surplus > 0:
            surplus -= _trim(folder, needed)
        if surplus > 0:
            raise WeightsUnavailable(
                f"{folder.repository} takes {gigabytes(least)}, {gigabytes(surplus)} over the "
                f"limit of {gigabytes(cap)}: the other weights are in use. Raise {CAP}."
            )
        _promise(folder.path, folder.own_bytes() + missing)
    finally:
        lock.release()


def _trim(folder: RepositoryFolder, kept: Sequence[ListedFile]) -> int:
    """Remove the fetched files of a repository except ``kept``. Returns their size in bytes."""
    before = folder.own_bytes()
    folder.trim(kept)
    freed = before - folder.own_bytes()
    if freed:
        log.info("Removed other files of %s: %s.", folder.repository, gigabytes(freed))
    return freed


def derived_limit(directory: Path, cap: int) -> int:
    """Bytes that derived files may take: what the limit leaves, or a share of the disk."""
    if not cap:
        while not directory.exists() and directory != directory.parent:
            directory = directory.parent
        return int(DERIVED_SHARE * shutil.disk_usage(directory).total)
    return max(0, cap - sum(resident.size for resident in _residents(directory)))


def end_reservation(folder: RepositoryFolder) -> None:
    """End the reservation after the download: from now on the files themselves are counted."""
    (folder.path / OWN / "promised").unlink(missing_ok=True)


def _residents(directory: Path) -> list[StoredRepository]:
    residents: list[StoredRepository] = []
    for path in repositories(directory):
        folder = RepositoryFolder(directory, repository_of(path))
        size = max(folder.own_bytes(), _read_promise(path))
        if size:
            residents.append(StoredRepository(folder.repository, size, folder.used_at()))
    return residents


def repository_of(path: Path) -> str:
    """owner/name of a folder in the hub's cache. Neither part of a name contains two hyphens."""
    return path.name.removeprefix("models--").replace("--", "/")


def _try_evict(directory: Path, resident: StoredRepository) -> bool:
    folder = RepositoryFolder(directory, resident.repository)
    lock = RepositoryLock(folder.lock_path)
    try:
        if not lock.try_take():
            return False  # it is being loaded or fetched
        log.info("Evicting %s: %s.", resident.repository, gigabytes(resident.size))
        folder.evict()
        return True
    finally:
        lock.release()


def _promise(path: Path, size: int) -> None:
    (path / OWN).mkdir(parents=True, exist_ok=True)
    (path / OWN / "promised").write_text(str(size))


def _read_promise(path: Path) -> int:
    try:
        return int((path / OWN / "promised").read_text())
    except (OSError, ValueError):
        return 0
