"""Files that are whole or not there, and keys that nobody else can read at any moment."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Put ``content`` in place of what is there. With ``secret`` only the owner can read it."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)  # a crash left it
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    fresh.replace(path)
