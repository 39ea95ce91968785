"""Names of stored objects."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Callable

from serve_app.domain.artifact import EXTENSIONS

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_MAX_CHARACTERS = 512

MEDIA_TYPE_OF = {extension: media_type for media_type, extension in EXTENSIONS.items()}


def valid(key: str) -> bool:
    """Whether ``key`` is a name of ours: plain segments, none of which starts with a dot."""
    return len(key) <= _MAX_CHARACTERS and _KEY.fullmatch(key) is not None


def artifact_key(
    request_id: str,
    attempt: int,
    media_type: str,
    token: Callable[[int], str] = secrets.token_urlsafe,
) -> str:
    """``r/<request>/<attempt>/<128 bits>.<extension>``: to know it is to read it."""
    return f"r/{request_id}/{attempt}/{token(16)}.{EXTENSIONS.get(media_type, 'bin')}"


def derived_token(secret: bytes, *of: object) -> Callable[[int], str]:
    """Makes a token that is the same for the same, and that nobody can guess without ``secret``."""
    digest = hmac.digest(secret, "/".join(map(str, of)).encode(), "sha256")
    return lambda size: base64.urlsafe_b64encode(digest[:size]).rstrip(b"=").decode()


def snapshot_key(
    request_id: str, attempt: int, token: Callable[[int], str] = secrets.token_urlsafe
) -> str:
    """A fresh ``s/<request>/<attempt>/<128 random bits>.bin``: it holds what its owner asked for,
    so it is as hard to guess as an artifact's."""
    return f"s/{request_id}/{attempt}/{token(16)}.bin"


def media_type_of(key: str) -> str:
    """By the extension, which we chose ourselves; anything else is served as plain bytes."""
    return MEDIA_TYPE_OF.get(key.rpartition(".")[2], "application/octet-stream")
