"""Files that commands write: they get their names when they are whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from serve_app.domain.errors import Misconfigured

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}


class FileThere(Misconfigured):
    """A file that was to be new exists."""


@contextlib.contextmanager
def whole_file(target: Path, *, new: bool = False) -> Generator[BinaryIO]:
    """Open a file for writing, which is called ``target`` once the block has ended without an
    error. Until then ``target`` is what it was.

    A device or a pipe is written to. Raises ``FileThere`` if ``target`` exists and should be
    ``new``, and ``Misconfigured`` if it cannot be written, as on a full disk.
    """
    place = Path(os.path.realpath(target))  # a link stays one
    if new and os.path.lexists(target):
        raise _there(target)
    is_named = place.is_file() or place.is_dir() or not place.exists()
    part = part_of(place) if is_named else place
    try:
        with part.open("wb") as file:
            yield file
        if new:
            _name_new(part, target)
        elif is_named:
            with contextlib.suppress(FileNotFoundError):
                part.chmod(stat.S_IMODE(place.stat().st_mode))
            part.replace(place)
    except OSError as error:
        raise cannot_write(target, error) from None
    finally:
        if is_named:
            with contextlib.suppress(OSError):
                part.unlink()


def part_of(place: Path) -> Path:
    """Name of a file of this process until it is whole. Another process may write the same file."""
    return place.with_name(f".{place.name}.{os.getpid()}.part")


def cannot_write(target: Path, error: OSError) -> Misconfigured:
    """Error in a sentence."""
    return Misconfigured(f"{target} cannot be written: {error.strerror or error}.")


def _name_new(part: Path, target: Path) -> None:
    """Name a file. A link fails if the name exists; a rename would replace that file."""
    try:
        target.hardlink_to(part)
    except FileExistsError:
        raise _there(target) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        part.replace(target)


def _there(target: Path) -> FileThere:
    return FileThere(f"{target} exists. Name another file, or move it away.")
