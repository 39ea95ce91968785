"""Files in and out of the command line: inputs become data URIs, outputs land beside their name."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from serve_app.domain.artifact import EXTENSIONS
from serve_app.domain.errors import InvalidInput, Misconfigured

IMAGES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/avif", "image/bmp")


def as_input(given: str) -> str:
    """A URL as it is; a file's content as a data URI. ``InvalidInput`` if it is no picture."""
    if urlsplit(given).scheme in ("http", "https", "data"):
        return given
    path = Path(given).expanduser()
    media_type = mimetypes.guess_type(path.name)[0]
    if media_type not in IMAGES:
        raise InvalidInput(f"{path} should be a picture: a PNG, JPEG, WebP, GIF, AVIF or BMP.")
    return _as_data(path, media_type)


def as_media(file: str) -> str:
    """A file's content as a data URI. ``InvalidInput`` if it is no picture, clip or sound."""
    path = Path(file).expanduser()
    media_type = mimetypes.guess_type(path.name)[0] or ""
    if media_type.partition("/")[0] not in ("image", "video", "audio"):
        raise InvalidInput(f"{path} should be a picture, a clip or a sound, and be named so.")
    return _as_data(path, media_type)


def _as_data(path: Path, media_type: str) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from None
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def outputs(output: object) -> Iterator[Mapping[str, Any]]:
    """Every file in an endpoint's output, wherever it stands: what has a URL and a media type. One
    whose content is in the output has a data URI."""
    if isinstance(output, Mapping):
        fields = cast("Mapping[str, Any]", output)
        if "content_type" in fields and isinstance(fields.get("content"), str):
            fields = {**fields, "url": f"data:{fields['content_type']};base64,{fields['content']}"}
        if isinstance(fields.get("url"), str) and "content_type" in fields:
            yield fields
            return
        for name, value in fields.items():
            if not isinstance(fields.get(f"{name}s"), Sequence):  # the first of them is there too
                yield from outputs(value)
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for value in cast("Sequence[object]", output):
            yield from outputs(value)


def inside(url: str) -> bytes | None:
    """The content of a data URI as outputs have them; None for another URL."""
    head, _, content = url.partition(",")
    return base64.b64decode(content) if head.startswith("data:") else None


def places(path: Path, files: Sequence[Mapping[str, Any]]) -> list[Path]:
    """For each file: ``out.png``, ``out-2.png``, … One of another type than the first, such as the
    poster of a clip, has its own extension: ``clip.mp4``, ``clip.jpg``."""
    taken: list[Path] = []
    for file in files:
        place = path.with_suffix(_suffix(path, file["content_type"], files[0]["content_type"]))
        number = sum(each.suffix == place.suffix for each in taken)
        taken.append(place if number == 0 else place.with_stem(f"{place.stem}-{number + 1}"))
    return taken


def _suffix(path: Path, media_type: str, first: str) -> str:
    if media_type == first or media_type not in EXTENSIONS:
        return path.suffix
    return f".{EXTENSIONS[media_type]}"


def write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise Misconfigured(f"{path} cannot be written: {error.strerror}.") from None
