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
    twin = f"{_plain(stem).strip('_') or 'file'}{dot}{_plain(extension)}"
    return f"{kind}; filename=\"{twin}\"; filename*=UTF-8''{quote(name)}"


def _plain(letters: str) -> str:
    """``letters`` without what ends a header or its value."""
    return "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in letters)
