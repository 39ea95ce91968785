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

ANY = "application/octet-stream"

UPLOAD_EXTENSIONS = {
    "image/gif": "gif",
    "image/avif": "avif",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "video/quicktime": "mov",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/flac": "flac",
    "audio/ogg": "ogg",
    "audio/mp4": "m4a",
    "audio/aac": "aac",
    "text/plain": "txt",
    "application/json": "json",
    "application/pdf": "pdf",
    "application/zip": "zip",
} | EXTENSIONS
"""The media types that an upload keeps. None of them is run by a browser; of any other the bytes
are kept and no type."""

_SAME = {
    "image/jpg": "image/jpeg",
    "audio/mp3": "audio/mpeg",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/x-m4a": "audio/mp4",
    "application/x-zip-compressed": "application/zip",
}
"""Other names of theirs, which clients send."""

MEDIA_TYPE_OF = {extension: media_type for media_type, extension in UPLOAD_EXTENSIONS.items()}
_STEM = re.compile(r"[^A-Za-z0-9_-]+")
_MOST_OF_A_NAME = 100  # characters


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


def upload_key(
    media_type: str, file_name: str = "", token: Callable[[int], str] = secrets.token_urlsafe
) -> str:
    """A fresh ``u/<128 random bits>/<name>.<extension>``; the name is what is left of the client's
    own. ``media_type``: as ``upload_type`` gives it."""
    stem = _STEM.sub("_", file_name.rpartition(".")[0] or file_name).strip("_")[:_MOST_OF_A_NAME]
    return f"u/{token(16)}/{stem or 'file'}.{UPLOAD_EXTENSIONS[media_type]}"


def upload_type(given: str, file_name: str = "") -> str:
    """As what a client's file is kept: what its client says it is, or else what its name says."""
    bare = given.partition(";")[0].strip().lower()
    media_type = _SAME.get(bare, bare)
    if media_type not in UPLOAD_EXTENSIONS or media_type == ANY:
        extension = file_name.rpartition(".")[2].lower()
        media_type = MEDIA_TYPE_OF.get("jpg" if extension == "jpeg" else extension, ANY)
    return media_type


def media_type_of(key: str) -> str:
    """By the extension, which we chose ourselves; anything else is served as plain bytes."""
    return MEDIA_TYPE_OF.get(key.rpartition(".")[2], ANY)
