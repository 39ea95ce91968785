"""Whether there is room for weights."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from serve_app.domain.errors import WeightsUnavailable

SPARE_BYTES = 512 * 2**20
"""Stays free: the database and the logs are often on the same disk."""

WAY_OUT = (
    "Free some space, or choose a directory on a larger disk (DARKROOM_WEIGHTS_DIR; without it "
    "HF_HOME decides)."
)


NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def gigabytes(size: float) -> str:
    """As disks are sold: 10^9 bytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def free_bytes(directory: Path) -> int:
    """On the disk where ``directory`` is, or will be."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return shutil.disk_usage(directory).free


def check_room(directory: Path, repository: str, missing_bytes: int) -> None:
    """``WeightsUnavailable`` when ``missing_bytes`` more would leave too little."""
    free = free_bytes(directory)
    lacking = missing_bytes + SPARE_BYTES - free
    if missing_bytes and lacking > 0:
        raise WeightsUnavailable(
            f"{repository} needs {gigabytes(missing_bytes)} more on the disk of {directory}, where "
            f"{gigabytes(free)} are free: with {gigabytes(SPARE_BYTES)} to spare, "
            f"{gigabytes(lacking)} are missing. {WAY_OUT}"
        )


def explain(error: OSError, directory: Path, repository: str) -> WeightsUnavailable:
    """What the file system said while ``repository`` was brought to ``directory``."""
    if error.errno in NO_ROOM:
        return WeightsUnavailable(
            f"The disk of {directory} became full while {repository} was downloaded. {WAY_OUT}"
        )
    return WeightsUnavailable(
        f"{repository} cannot be written to {directory} ({error.strerror or error}). Change its "
        "owner, or choose another directory (DARKROOM_WEIGHTS_DIR)."
    )
