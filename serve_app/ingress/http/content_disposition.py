"""Header ``Content-Disposition`` of a file, with a name in any letters (RFC 6266)."""

from __future__ import annotations

import unicodedata
from typing import Literal
from urllib.parse import quote


def content_disposition(kind: Literal["inline", "attachment"], name: str) -> str:
    """Value of the header. ``filename`` has the name in ASCII, for clients that read no other."""
    if name.isascii():
        return f"{kind}; filename*=UTF-8''{quote(name)}"
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")
    stem, dot, extension = letters.rpartition(".")
    twin = "".join(char if char.isalnum() or char in "_-" else "_" for char in stem).strip("_")
    return f"{kind}; filename=\"{twin or 'file'}{dot}{extension}\"; filename*=UTF-8''{quote(name)}"
