"""Atomic writing of files, with keys readable only by their owner at all times."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Replace the file atomically. With ``secret``, only the owner can read it."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)  # left over from a crash
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    fresh.replace(path)
