"""The digests by which the hub names a file's content."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHUNK_BYTES = 4 * 2**20
SHA256_DIGITS = 64
SHA1_DIGITS = 40  # of a git blob: small files have no other


def digest_of(path: Path, like: str) -> str:
    """Of the kind that ``like`` is: SHA-256 in hex, or the id of a git blob. Reads the file as a
    stream. ``ValueError`` for a kind that is neither."""
    if len(like) == SHA256_DIGITS:
        state = hashlib.sha256()
    elif len(like) == SHA1_DIGITS:
        # Git puts the size before the content.
        state = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        raise ValueError(f"{like!r} is neither a SHA-256 nor the id of a git blob")
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


def known(digest: str) -> bool:
    """Whether ``digest_of`` can check it."""
    return len(digest) in (SHA256_DIGITS, SHA1_DIGITS)
