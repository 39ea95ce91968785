"""Files of ``darkroom generate``: inputs become data URIs, outputs are written without loss."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from darkroom.image_formats import BY_SUFFIX, NAMES
from darkroom.media_types import type_of_name
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.whole_file import FileThere, whole_file
from serve_app.domain.artifact import EXTENSIONS, MEDIA_TYPES
from serve_app.domain.errors import InvalidInput, Misconfigured
from serve_app.domain.media.data_uri import data_uri, data_uri_of_base64, is_data_uri, read_data_uri
from serve_app.options.results import FACTS, TEXT
from serve_app.paths import expand_home

# Inputs.


def image_input(source: str) -> str:
    """Image input for a request: a URL unchanged, or a file's content as a data URI.

    Raises ``InvalidInput`` if the file is not an image or cannot be read.
    """
    if urlsplit(source).scheme in ("http", "https", "data"):
        return source
    path = _path(source)
    media_type = BY_SUFFIX.get(path.suffix.lower())
    if media_type is None:
        raise InvalidInput(
            f"{path} is not an image that can be read. Use a {NAMES} file with the matching suffix."
        )
    return _as_data(path, media_type)


def media_input(file: str) -> str:
    """Content of a file as a data URI.

    Raises ``InvalidInput`` if the file is not an image, video or audio file or cannot be read.
    """
    path = _path(file)
    media_type = BY_SUFFIX.get(path.suffix.lower()) or type_of_name(path.name)
    if media_type.partition("/")[0] not in ("image", "video", "audio"):
        raise InvalidInput(
            f"{path} is not an image, video or audio file. Use a file with the matching suffix."
        )
    return _as_data(path, media_type)


def _path(path: str) -> Path:
    try:
        return expand_home(path)
    except ValueError as error:
        raise InvalidInput(f"{error}.") from None


def _as_data(path: Path, media_type: str) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from None
    return data_uri(content, media_type)


# Formats of outputs.

TEXT_FORMAT, TEXT_TYPE = "txt", "text/plain"
FORMATS = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".mp4": "mp4",
    ".webm": "webm",
    ".gif": "gif",
    ".wav": "wav",
    ".flac": "flac",
    ".mp3": "mp3",
    ".ogg": "ogg",
    ".opus": "ogg",
    ".glb": "glb",
    ".txt": TEXT_FORMAT,
}


class MediaKind(StrEnum):
    """Kind of output."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    MESH = "3d"
    TEXT = "text"


def format_of(output: Path) -> str:
    """Format of an output file, as inputs name it. Raises ``InvalidInput`` for other suffixes."""
    format_name = FORMATS.get(output.suffix.lower())
    if format_name is None:
        raise InvalidInput(
            f"The format of {output} is not known. Use one of these suffixes: {', '.join(FORMATS)}."
        )
    return format_name


def kind_of(output_format: str) -> MediaKind:
    """Kind of output for a format. GIF counts as video."""
    if output_format == TEXT_FORMAT:
        return MediaKind.TEXT
    media_type = MEDIA_TYPES[output_format]
    if media_type.startswith("audio/"):
        return MediaKind.AUDIO
    if media_type.startswith("model/"):
        return MediaKind.MESH
    moves = media_type.startswith("video/") or output_format == "gif"
    return MediaKind.VIDEO if moves else MediaKind.IMAGE


# Outputs.

STDOUT = Path("-")
"""Output path that stands for standard output."""


def outputs(output: object) -> Iterator[Mapping[str, Any]]:
    """Every file in an endpoint's output, at any depth.

    A file is an object with a URL and a media type. A file whose content is in the output gets a
    data URI as its URL.
    """
    if isinstance(output, Mapping):
        fields = cast("Mapping[str, Any]", output)
        if "content_type" in fields and isinstance(fields.get("content"), str):
            url = data_uri_of_base64(fields["content"], fields["content_type"])
            fields = {**fields, "url": url}
        if isinstance(fields.get("url"), str) and "content_type" in fields:
            yield fields
            return
        for name, value in fields.items():
            # `image` repeats the first item of `images`.
            if not isinstance(fields.get(f"{name}s"), Sequence):
                yield from outputs(value)
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for value in cast("Sequence[object]", output):
            yield from outputs(value)


def text_of(output: Mapping[str, Any]) -> str | None:
    """The text of an output without files; None: it has no such field."""
    texts = (output.get(name) for name in TEXTS)
    return next((text for text in texts if isinstance(text, str)), None)


TEXTS = (TEXT, "text")
OF_TEXTS = FACTS | {"chunks", "inferred_languages", "partial"}
"""Fields that say how a text was made, or the same again in parts (``whisper``, ``any-llm``)."""


def says_more_than_text(output: Mapping[str, Any]) -> bool:
    """True if something stands beside the text of an output that would be lost without it."""
    said = [
        name
        for name, value in output.items()
        if name not in OF_TEXTS and not name.startswith("darkroom_") and value not in (None, "")
    ]
    return len(said) > 1


def content_of(client: Client, file: Mapping[str, Any]) -> bytes:
    """Content of an output file. A restart of the server is outlasted."""
    url = str(file["url"])
    if is_data_uri(url):
        return read_data_uri(url)
    return client.patiently(lambda: client.download(url))


def output_paths(
    path: Path,
    files: Sequence[Mapping[str, Any]],
    taken: Callable[[Path], bool] = lambda _: False,
) -> list[Path]:
    """Path for each file: ``out.png``, ``out-2.png``, …, which begin where none is ``taken``.

    A file of another type than the first, such as the poster of a video, gets its own extension and
    the same number: ``video.mp4``, ``video.jpg``.
    """
    first, paths = 1, _paths_for(path, files, 1)
    while any(map(taken, paths)):
        first += 1
        paths = _paths_for(path, files, first)
    return paths


def _paths_for(path: Path, files: Sequence[Mapping[str, Any]], first: int) -> list[Path]:
    numbers: dict[str, int] = {}  # by extension
    paths: list[Path] = []
    for file in files:
        place = path.with_suffix(_suffix(path, file["content_type"], files[0]["content_type"]))
        number = numbers.get(place.suffix, first)
        numbers[place.suffix] = number + 1
        paths.append(place if number == 1 else place.with_stem(f"{place.stem}-{number}"))
    return paths


def _suffix(path: Path, media_type: str, first: str) -> str:
    if media_type == first or media_type not in EXTENSIONS:
        return path.suffix
    return f".{EXTENSIONS[media_type]}"


def check_output(path: Path) -> None:
    """Raise ``Misconfigured`` if no file can be written to ``path``."""
    if path == STDOUT:
        if sys.stdout.isatty():
            raise Misconfigured(
                "Standard output is a terminal. Redirect it to a file or a program, or name a file "
                "with -o."
            )
        return
    folder = path.parent
    if not folder.is_dir():
        raise Misconfigured(
            f"The folder {folder} does not exist, so {path.name} cannot be written there. Create "
            "it, or name another file with -o."
        )
    if not os.access(folder, os.W_OK):
        raise Misconfigured(
            f"The folder {folder} cannot be written to. Name a file in another one with -o."
        )


def write_outputs(
    path: Path, files: Sequence[Mapping[str, Any]], contents: Sequence[bytes], *, overwrite: bool
) -> list[Path]:
    """Write the outputs and return their paths.

    Without ``overwrite``, files that exist are kept: the new ones get the next free numbers.
    """
    while True:
        places = (
            output_paths(path, files) if overwrite else output_paths(path, files, os.path.lexists)
        )
        written: list[Path] = []
        try:
            for place, content in zip(places, contents, strict=True):
                with whole_file(place, new=not overwrite) as file:
                    file.write(content)
                written.append(place)
        except FileThere:  # another program was faster
            for place in written:
                place.unlink(missing_ok=True)
            continue
        return places
