"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def expanded(given: Path | str) -> Path:
    """The path, with a ``~`` at its beginning replaced. ``ValueError``: nobody knows that home."""
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise ValueError(f"{given}: this machine has no such home directory") from None


def absolute(given: Path) -> Path:
    """The expanded path, from the root on. ``ValueError``: see ``expanded``."""
    return expanded(given).absolute()


AbsolutePath = Annotated[Path, AfterValidator(absolute)]
"""Setting: Serve may build the application in a process with another working directory."""
