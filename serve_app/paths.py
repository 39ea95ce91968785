"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path


def expanded(given: Path | str) -> Path:
    """The path, with a ``~`` at its beginning replaced. ``ValueError``: nobody knows that home."""
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise ValueError(f"{given}: this machine has no such home directory") from None


def absolute(given: Path) -> Path:
    """The expanded path, from the root on. ``ValueError``: see ``expanded``."""
    return expanded(given).absolute()
