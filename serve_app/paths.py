"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def expand_home(path: Path | str) -> Path:
    """The path, with a ``~`` at its beginning replaced. ``ValueError``: nobody knows that home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: this machine has no such home directory") from None


def absolute(path: Path) -> Path:
    """The expanded path, from the root on. ``ValueError``: see ``expand_home``."""
    return expand_home(path).absolute()


AbsolutePath = Annotated[Path, AfterValidator(absolute)]
"""Setting: Serve may build the application in a process with another working directory."""
