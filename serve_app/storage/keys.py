"""Keys (names) of stored objects, and the media types of uploads."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from darkroom.image_formats import BY_SUFFIX, FORMATS
from serve_app.domain.artifact import EXTENSIONS
from serve_app.domain.errors import InvalidInput, NotFound, StorageUnavailable
from serve_app.domain.media.draft import DRAFT_TYPE

_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}"  # no file system has longer names
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_MAX_CHARACTERS = 512

DEFAULT_MEDIA_TYPE = "application/octet-stream"
SAFETENSORS = "application/vnd.safetensors"
"""Type of uploaded weights, such as LoRAs. There is no registered one."""

UPLOAD_EXTENSIONS = {
    **{kind.media_type: kind.suffixes[0].removeprefix(".") for kind in FORMATS},
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
    SAFETENSORS: "safetensors",
} | EXTENSIONS
"""Media types that an upload keeps, with their extensions.

A browser executes none of them. An upload of any other type is kept without its type.
"""

_SAME = {
    "image/jpg": "image/jpeg",
    "image/x-ms-bmp": "image/bmp",
    "audio/mp3": "audio/mpeg",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/x-m4a": "audio/mp4",
    "application/x-zip-compressed": "application/zip",
}
"""Aliases of these media types that clients send."""

MEDIA_TYPE_OF = {extension: media_type for media_type, extension in UPLOAD_EXTENSIONS.items()}
_SPACES = re.compile(" +")
_MAX_STEM_LENGTH = 100  # characters
_PUNYCODE = "xn--"
"""Beginning of a name with other letters than those of ASCII."""


LOCATION_ID = re.compile(r"[a-z][a-z0-9-]{1,31}")
"""Id of a storage location of tenants."""

_LOCATED = re.compile(
    rf"(?:p/[^/]+/)?(?:u/[A-Za-z0-9_-]+\.({LOCATION_ID.pattern})/"
    rf"|[drs]/[^/]+/[0-9]+/[A-Za-z0-9_-]+\.({LOCATION_ID.pattern})\.)"
)


def location_id(key: str) -> str:
    """Id of the storage location in a key; empty: the installation's own storage."""
    match = _LOCATED.match(key)
    return "" if match is None else match[1] or match[2]


def by_location(keys: Iterable[str]) -> Sequence[Sequence[str]]:
    """Keys in groups, each of one storage location."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(location_id(key), []).append(key)
    return list(groups.values())


def _suffix(location: str) -> str:
    return f".{location}" if location else ""


def valid(key: str) -> bool:
    """Return True if ``key`` consists of plain segments, none of them starting with a dot."""
    return len(key) <= _MAX_CHARACTERS and _KEY.fullmatch(key) is not None


PRIVATE = "p/"
"""Beginning of the keys of private files: ``p/<id of the access rules>/<key>``. Whether a file is
private follows from its key, so the read of a public file needs no look into the database."""


def is_private(key: str) -> bool:
    """Return whether a reader of the file needs a right, besides knowing its key."""
    return key.startswith(PRIVATE)


def access_id(key: str) -> str:
    """Id of the access rules of a private file."""
    return key.split("/", 2)[1]


def is_upload(key: str) -> bool:
    """Return whether the file was uploaded, or written by a batch."""
    return _parts(key)[:1] == ["u"]


def request_of(key: str) -> str | None:
    """Id of the request that a file is of; None: it is of none."""
    parts = _parts(key)
    return parts[1] if len(parts) > 1 and parts[0] == "r" else None


def _parts(key: str) -> Sequence[str]:
    """Segments of a key without those of its access rules."""
    return key.split("/")[2 if is_private(key) else 0 :]


def _in(access: str, key: str) -> str:
    return f"{PRIVATE}{access}/{key}" if access else key


def artifact_key(
    request_id: str,
    attempt: int,
    media_type: str,
    token: Callable[[int], str] = secrets.token_urlsafe,
    location: str = "",
    access: str = "",
) -> str:
    """Key ``r/<request>/<attempt>/<128 bits>.<extension>``. Anyone who knows it can read it, unless
    it is below the id of its ``access`` rules.

    The key of a draft begins with ``d/``, and only Darkroom knows it. The id of a ``location``
    comes before the extension.
    """
    folder, access = ("d", "") if media_type == DRAFT_TYPE else ("r", access)
    name = f"{token(16)}{_suffix(location)}.{UPLOAD_EXTENSIONS.get(media_type, 'bin')}"
    return _in(access, f"{folder}/{request_id}/{attempt}/{name}")


def derived_token(secret: bytes, *of: object) -> Callable[[int], str]:
    """Token function for keys: the same ``of`` gives the same token.

    The token cannot be guessed without ``secret``.
    """
    digest = hmac.digest(secret, "/".join(map(str, of)).encode(), "sha256")
    return lambda size: base64.urlsafe_b64encode(digest[:size]).rstrip(b"=").decode()


def snapshot_key(
    request_id: str,
    attempt: int,
    token: Callable[[int], str] = secrets.token_urlsafe,
    location: str = "",
) -> str:
    """New key ``s/<request>/<attempt>/<128 random bits>.bin``.

    A snapshot contains the owner's input, so its key is as hard to guess as an artifact's.
    """
    return f"s/{request_id}/{attempt}/{token(16)}{_suffix(location)}.bin"


def upload_key(
    media_type: str,
    file_name: str = "",
    token: Callable[[int], str] = secrets.token_urlsafe,
    location: str = "",
    access: str = "",
) -> str:
    """New key ``u/<128 random bits>/<name>.<extension>``. The id of a location follows the bits;
    see ``artifact_key`` for ``access``.

    The name is the client's own, as ``upload_name`` writes it. ``media_type`` comes from
    ``upload_type``.
    """
    name = upload_name(media_type, file_name)
    return _in(access, f"u/{token(16)}{_suffix(location)}/{name}")


def upload_name(media_type: str, file_name: str) -> str:
    """Last part of the key of an upload with this file name: its letters and digits.

    Keys are ASCII, so other letters are written in Punycode, as in names of hosts. ``file_name``
    reads them.
    """
    stem = _stem(file_name.rpartition(".")[0] or file_name)
    return f"{stem or 'file'}.{UPLOAD_EXTENSIONS[media_type]}"


def file_name(key: str) -> str:
    """Name of a file for its readers, with the letters that it had for ``upload_name``."""
    name = key.rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    if not stem.startswith(_PUNYCODE):
        return name
    try:
        letters = stem.removeprefix(_PUNYCODE).encode("ascii").decode("punycode")
    except UnicodeError:
        return name
    # Nothing but what ``upload_name`` writes: the key may be a client's.
    return f"{letters}{dot}{extension}" if _stem(letters) == stem else name


def _stem(name: str) -> str:
    letters = _plain(unicodedata.normalize("NFC", name)).strip("_")[:_MAX_STEM_LENGTH]
    while len(stem := _to_punycode(letters.rstrip("_"))) > _MAX_STEM_LENGTH:
        letters = letters[:-1]
    return stem


def _plain(text: str) -> str:
    """``text`` with ``_`` in place of what is no letter, mark or digit."""
    kept = (
        char if char in "_-" or unicodedata.category(char)[0] in "LMN" else " " for char in text
    )
    return _SPACES.sub("_", "".join(kept))


def _to_punycode(letters: str) -> str:
    if letters.isascii() and not letters.startswith(_PUNYCODE):
        return letters
    return _PUNYCODE + letters.encode("punycode").decode("ascii")


def weights_key(token: Callable[[int], str] = secrets.token_urlsafe) -> str:
    """New key ``w/<128 random bits>.safetensors``. Only replicas learn it."""
    return f"w/{token(16)}.safetensors"


def upload_type(content_type: str, file_name: str = "") -> str:
    """Media type under which a client's file is kept: the client's own, or by its file name."""
    bare = content_type.partition(";")[0].strip().lower()
    media_type = _SAME.get(bare, bare)
    if media_type not in UPLOAD_EXTENSIONS or media_type == DEFAULT_MEDIA_TYPE:
        extension = file_name.rpartition(".")[2].lower()
        other = MEDIA_TYPE_OF.get(extension, DEFAULT_MEDIA_TYPE)
        media_type = BY_SUFFIX.get(f".{extension}", other)
    return media_type


def media_type_of(key: str) -> str:
    """Media type by the extension, which Darkroom chose; any other key is served as plain bytes."""
    return MEDIA_TYPE_OF.get(key.rpartition(".")[2], DEFAULT_MEDIA_TYPE)


# Limits and errors that multipart uploads of all storages share.

PARTS_ID = re.compile(r"[0-9a-f]{32}")

MAX_PARTS = 10_000
"""Maximum number of parts; the limit of S3."""


class DamagedFile(StorageUnavailable):
    """Raised when the bytes of a stored file are not those that were stored."""


def missing_part(number: int | None = None) -> InvalidInput:
    """Error for a part that is missing or has another ETag. None: the store does not say which."""
    which = "a part" if number is None else f"part {number}"
    message = f"{which} is missing or has another ETag: upload it again"
    return InvalidInput.of_field("parts", message)


def upload_not_found() -> NotFound:
    return NotFound("This upload does not exist or has ended. Begin a new one.")
