"""Options of ``darkroom generate``: the model, its input, and the kind of output file."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from serve_app.cli.connection.client import Client
from serve_app.domain.artifact import EXTENSIONS, MEDIA_TYPES
from serve_app.domain.errors import InvalidInput, Misconfigured

# Files of the command line: inputs become data URIs, outputs are written to numbered files.

IMAGES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/avif", "image/bmp")


def image_input(given: str) -> str:
    """Image input for a request: a URL unchanged, or a file's content as a data URI.

    Raises ``InvalidInput`` if the file is not an image or cannot be read.
    """
    if urlsplit(given).scheme in ("http", "https", "data"):
        return given
    path = Path(given).expanduser()
    media_type = mimetypes.guess_type(path.name)[0]
    if media_type not in IMAGES:
        raise InvalidInput(
            f"{path} is not an image. Use a PNG, JPEG, WebP, GIF, AVIF or BMP file with the "
            "matching suffix."
        )
    return _as_data(path, media_type)


def media_input(file: str) -> str:
    """Content of a file as a data URI.

    Raises ``InvalidInput`` if the file is not an image, video or audio file or cannot be read.
    """
    path = Path(file).expanduser()
    media_type = mimetypes.guess_type(path.name)[0] or ""
    if media_type.partition("/")[0] not in ("image", "video", "audio"):
        raise InvalidInput(
            f"{path} is not an image, video or audio file. Use a file with the matching suffix."
        )
    return _as_data(path, media_type)


def _as_data(path: Path, media_type: str) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from None
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def outputs(output: object) -> Iterator[Mapping[str, Any]]:
    """Every file in an endpoint's output, at any depth.

    A file is an object with a URL and a media type. A file whose content is in the output gets a
    data URI as its URL.
    """
    if isinstance(output, Mapping):
        fields = cast("Mapping[str, Any]", output)
        if "content_type" in fields and isinstance(fields.get("content"), str):
            fields = {**fields, "url": f"data:{fields['content_type']};base64,{fields['content']}"}
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


def decode_data_uri(url: str) -> bytes | None:
    """Content of an output's data URI; None for any other URL."""
    head, _, content = url.partition(",")
    return base64.b64decode(content) if head.startswith("data:") else None


def output_paths(path: Path, files: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Path for each file: ``out.png``, ``out-2.png``, …

    A file of another type than the first, such as the poster of a video, gets its own extension:
    ``video.mp4``, ``video.jpg``.
    """
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


def write_file(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise Misconfigured(f"{path} cannot be written: {error.strerror}.") from None


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
}


class MediaKind(StrEnum):
    """Kind of output."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


NOUNS = {MediaKind.IMAGE: "an image", MediaKind.VIDEO: "a video", MediaKind.AUDIO: "audio"}

FROM_PROMPT = "fal-ai/flux/schnell"
MODELS: Mapping[tuple[MediaKind, str], str] = {
    (MediaKind.IMAGE, "a prompt"): FROM_PROMPT,
    (MediaKind.IMAGE, "--image"): "fal-ai/flux/dev/image-to-image",
    (MediaKind.IMAGE, "--mask"): "fal-ai/fast-sdxl/inpainting",
    (MediaKind.VIDEO, "a prompt"): "fal-ai/wan/v2.2-5b/text-to-video",
    (MediaKind.VIDEO, "--image"): "fal-ai/wan/v2.2-5b/image-to-video",
    (MediaKind.AUDIO, "a prompt"): "fal-ai/stable-audio",
}
"""Kind of output and input → model that is used if the user names none."""


def format_of(output: Path) -> str:
    """Format of an output file, as inputs name it. Raises ``InvalidInput`` for other suffixes."""
    found = FORMATS.get(output.suffix.lower())
    if found is None:
        raise InvalidInput(
            f"The format of {output} is not known. Use one of these suffixes: {', '.join(FORMATS)}."
        )
    return found


def kind_of(output_format: str) -> MediaKind:
    """Kind of output for a format. GIF counts as video."""
    media_type = MEDIA_TYPES[output_format]
    if media_type.startswith("audio/"):
        return MediaKind.AUDIO
    moves = media_type.startswith("video/") or output_format == "gif"
    return MediaKind.VIDEO if moves else MediaKind.IMAGE


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """Options from the command line. A value that is None or empty is left to the endpoint."""

    prompt: str
    model: str | None = None
    seed: int | None = None
    steps: int | None = None
    size: str | None = None
    count: int | None = None
    image: str | None = None
    mask: str | None = None
    strength: float | None = None
    fields: tuple[str, ...] = ()

    def endpoint(self, kind: MediaKind = MediaKind.IMAGE) -> str:
        """Model that the user named, or the default for this kind of output and input.

        Raises ``InvalidInput`` if there is no default.
        """
        if self.model:
            return self.model
        given = "--mask" if self.mask else "--image" if self.image else "a prompt"
        found = MODELS.get((kind, given))
        if found is None:
            raise InvalidInput(
                f"There is no default model that makes {NOUNS[kind]} from {given}. "
                "Name one with --model."
            )
        return found

    def body(self, **more: Any) -> dict[str, Any]:
        """Input for the endpoint, including ``more``.

        Raises ``InvalidInput`` with the option that is wrong.
        """
        body: dict[str, Any] = {"prompt": self.prompt, **more}
        given = {
            "seed": self.seed,
            "num_inference_steps": self.steps,
            "image_size": None if self.size is None else _size(self.size),
            "num_images": self.count,
            "image_url": self.image and image_input(self.image),
            "mask_url": self.mask and image_input(self.mask),
            "strength": self.strength,
        }
        body |= {name: value for name, value in given.items() if value is not None}
        return body | dict(_field(one) for one in self.fields)


def _size(text: str) -> str | dict[str, int]:
    width, separator, height = text.partition("x")
    if separator and width.isdigit() and height.isdigit():
        return {"width": int(width), "height": int(height)}
    return text


def _field(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise InvalidInput(f"--field takes NAME=JSON or NAME=@FILE, not {text!r}.")
    if value.startswith("@"):
        return name, media_input(value.removeprefix("@"))
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a word that is not JSON is a string


# Name of the input field that selects the file format of an endpoint's output.

NAMES = ("output_format", "format")  # fal's endpoints have one or the other


def format_field(client: Client, endpoint: str) -> str | None:
    """Name of the field in the endpoint's schema; None if its input has no such field."""
    listed = client.get("/v1/models", endpoint_id=endpoint, expand="openapi-3.0")["models"]
    if not listed:  # The response to the request reports the unknown endpoint.
        return NAMES[0]
    return format_field_in(endpoint, listed[0]["openapi"])


def format_field_in(endpoint: str, description: dict[str, Any]) -> str | None:
    """Name of the field in the endpoint's OpenAPI document; None if it has no such field."""
    body = description["paths"][f"/{endpoint}"]["post"]["requestBody"]
    reference: str = body["content"]["application/json"]["schema"]["$ref"]
    schema = description["components"]["schemas"][reference.rpartition("/")[2]]
    fields = schema.get("properties")
    if not fields:  # The endpoint accepts any object.
        return NAMES[0]
    return next((name for name in NAMES if name in fields), None)
