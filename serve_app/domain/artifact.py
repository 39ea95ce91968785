"""Produced files, and the right to upload one."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.domain.by_name import by_name


@by_name
@dataclass(frozen=True, slots=True)
class Artifact:
    """A produced file that lies in storage.

    ``key`` is its name in storage and the unguessable part of its URL; it contains the attempt, so
    that a replica that lost its lease cannot overwrite the winner's file.
    """

    key: str
    media_type: str
    size: int  # bytes
    sha256: str  # hex
    width: int | None = None  # pixels
    height: int | None = None


@by_name
@dataclass(frozen=True, slots=True)
class UploadTicket:
    """The right to PUT one object: this key, this media type, at most this size, until then."""

    key: str
    url: str
    media_type: str
    max_bytes: int
    headers: tuple[tuple[str, str], ...] = ()  # to send with the PUT
    delete_url: str | None = None  # to DELETE the same object; None: ``url`` does that too
    takes_md5: bool = False  # storage checks the header ``Content-MD5``


MEDIA_TYPES = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "mp4": "video/mp4",
    "webm": "video/webm",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
}
"""Output format as an input names it → media type."""

EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "audio/wav": "wav",
    "audio/mpeg": "mp3",
    "audio/flac": "flac",
    "audio/ogg": "ogg",
    "application/octet-stream": "bin",
}
"""Media type → file extension in artifact keys."""
