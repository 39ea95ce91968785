"""Generated files, upload tickets, and sums of stored files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from serve_app.domain.serialization import pickle_by_name


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Artifact:
    """A generated file in storage.

    ``key`` is its name in storage and the unguessable part of its URL. It contains the attempt, so
    that a replica that lost its lease cannot overwrite the file of the attempt that succeeded. The
    key of a file in a bucket of its client is its whole URL; see ``is_elsewhere``.
    """

    key: str
    media_type: str
    size: int  # bytes
    sha256: str  # hex
    width: int | None = None  # pixels
    height: int | None = None
    thumbnail: Artifact | None = None  # a small image of the file; it has none of its own


def is_elsewhere(key: str) -> bool:
    """Return whether a file is in a bucket of its client. Darkroom neither reads nor deletes it."""
    return key.startswith(("https://", "http://"))


@pickle_by_name
@dataclass(frozen=True, slots=True)
class UploadTicket:
    """Right to PUT one object: with this key and media type, and at most this size. With a
    ``form``, right to POST it to a bucket of the client."""

    key: str
    url: str
    media_type: str
    max_bytes: int
    headers: tuple[tuple[str, str], ...] = ()  # required headers of the PUT
    delete_url: str | None = None  # for a DELETE of the same object; None: use ``url``
    takes_md5: bool = False  # storage checks the header ``Content-MD5``
    thumbnail: UploadTicket | None = None  # for a small image of the object; None: make none
    etag_is_md5: bool = False  # the ETag of the response is the MD5 of what storage has
    form: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # it has a signature
    # A file in the folder in which the object will be ``key``: a replica that sees it, and is of
    # the same user, writes the object there itself while ``least_free`` bytes are left.
    marker: str = ""
    least_free: int = 0


THUMBNAIL_TYPE = "image/webp"


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
    "glb": "model/gltf-binary",
}
"""Output format in an input → media type."""

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
    "model/gltf-binary": "glb",
    "application/octet-stream": "bin",
}
"""Media type → file extension in artifact keys."""

StoredKind = Literal["image", "video", "audio", "other", "thumbnail", "upload", "draft", "weights"]


@dataclass(frozen=True, slots=True)
class StoredSum:
    """Files of one kind in storage. ``tenant``: empty for weights, which tenants share."""

    tenant: str
    kind: StoredKind
    files: int
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class StorageUse:
    """What is stored by the records of the database. Snapshots of running requests are not in it,
    nor are open uploads."""

    measured_at: datetime
    sums: Sequence[StoredSum]
    unwanted: int  # files that nothing needs, which will be deleted
    overdue: int  # those of them that should be deleted by now


class StoredFiles(Protocol):
    async def use(self) -> StorageUse:
        """Sums over all tenants. They may be a minute old."""
        ...


# Retention of a request's files, if its client sets one.


class Lifecycles(Protocol):
    """Store of retention times. Methods raise ``DatabaseUnavailable``."""

    async def keep(self, request_id: str, keep_s: float) -> None:
        """Delete the request's files ``keep_s`` seconds after its end. Call it before the request
        is stored; it does no harm if the request is never stored."""
        ...
