"""What is asked for on the command line: the model, its input, and the kind of file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from serve_app.cli.files import as_input, as_media
from serve_app.domain.artifact import MEDIA_TYPES
from serve_app.domain.errors import InvalidInput

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


class Kind(StrEnum):
    """What is made."""

    PICTURE = "picture"
    CLIP = "clip"
    SOUND = "sound"


FROM_PROMPT = "fal-ai/flux/schnell"
MODELS: Mapping[tuple[Kind, str], str] = {
    (Kind.PICTURE, "a prompt"): FROM_PROMPT,
    (Kind.PICTURE, "--image"): "fal-ai/flux/dev/image-to-image",
    (Kind.PICTURE, "--mask"): "fal-ai/fast-sdxl/inpainting",
    (Kind.CLIP, "a prompt"): "fal-ai/wan/v2.2-5b/text-to-video",
    (Kind.CLIP, "--image"): "fal-ai/wan/v2.2-5b/image-to-video",
    (Kind.SOUND, "a prompt"): "fal-ai/stable-audio",
}
"""What is wanted and what is given → the model that is asked where none is named."""


def format_of(output: Path) -> str:
    """As inputs name it. ``InvalidInput`` for a file of another kind."""
    found = FORMATS.get(output.suffix.lower())
    if found is None:
        raise InvalidInput(f"{output} should end in one of {', '.join(FORMATS)}.")
    return found


def kind_of(output_format: str) -> Kind:
    """GIFs are clips."""
    media_type = MEDIA_TYPES[output_format]
    if media_type.startswith("audio/"):
        return Kind.SOUND
    moves = media_type.startswith("video/") or output_format == "gif"
    return Kind.CLIP if moves else Kind.PICTURE


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for on the command line; what is None or empty is left to the endpoint."""

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

    def endpoint(self, kind: Kind = Kind.PICTURE) -> str:
        """The model that was named, or else the one for what is given and wanted. ``InvalidInput``
        where nothing makes that of it."""
        if self.model:
            return self.model
        given = "--mask" if self.mask else "--image" if self.image else "a prompt"
        found = MODELS.get((kind, given))
        if found is None:
            raise InvalidInput(f"No model makes a {kind} of {given}. Name one with --model.")
        return found

    def body(self, **more: Any) -> dict[str, Any]:
        """The input, with ``more`` in it. ``InvalidInput`` names the option that is wrong."""
        body: dict[str, Any] = {"prompt": self.prompt, **more}
        given = {
            "seed": self.seed,
            "num_inference_steps": self.steps,
            "image_size": None if self.size is None else _size(self.size),
            "num_images": self.count,
            "image_url": self.image and as_input(self.image),
            "mask_url": self.mask and as_input(self.mask),
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
        return name, as_media(value.removeprefix("@"))
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a bare word is a string
