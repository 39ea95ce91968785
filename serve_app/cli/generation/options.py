"""Options of ``darkroom generate``, and the input that they make."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from serve_app.cli.generation.files import MediaKind, image_input, media_input
from serve_app.domain.errors import InvalidInput

NOUNS = {
    MediaKind.IMAGE: "an image",
    MediaKind.VIDEO: "a video",
    MediaKind.AUDIO: "audio",
    MediaKind.MESH: "a mesh",
    MediaKind.TEXT: "text",
}

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

OPTIONS: Mapping[str, str] = {
    "prompt": "PROMPT",
    "seed": "--seed",
    "num_inference_steps": "--steps",
    "image_size": "--size",
    "num_images": "--count",
    "image_url": "--image",
    "image_urls": "--image",
    "mask_url": "--mask",
    "strength": "--strength",
    "draft": "--draft",
    "from_draft": "--from-draft",
    "new_noise": "--new-noise",
}
"""Input field → option that sets it."""


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """Options from the command line. A value that is None or empty is left to the endpoint."""

    prompt: str | None
    model: str | None = None
    seed: int | None = None
    steps: int | None = None
    size: str | None = None
    count: int | None = None
    images: tuple[str, ...] = ()
    mask: str | None = None
    strength: float | None = None
    fields: tuple[str, ...] = ()
    draft: int | None = None  # number of drafts
    until: float | None = None
    from_draft: str | None = None
    new_noise: float | None = None

    def endpoint(self, kind: MediaKind = MediaKind.IMAGE) -> str:
        """Model that the user named, or the default for this kind of output and input.

        Raises ``InvalidInput`` if there is no default.
        """
        if self.model:
            return self.model
        source = "--mask" if self.mask else "--image" if self.images else "a prompt"
        model = MODELS.get((kind, source))
        if model is None:
            raise InvalidInput(
                f"There is no default model that makes {NOUNS[kind]} from {source}. "
                "Name one with --model."
            )
        return model

    def body(self) -> dict[str, Any]:
        """Input for the endpoint. Raises ``InvalidInput`` with the option that is wrong."""
        named = {pair.partition("=")[0] for pair in self.fields}
        if self.mask and not self.images and "image_url" not in named:
            raise InvalidInput("--mask says which part of an image to repaint. Add --image.")
        # An app may have other fields: its schema says what is missing.
        of_an_app = self.model is not None and bool(self.images or named - {"prompt"})
        if self.prompt is None and not (self.from_draft or "prompt" in named or of_an_app):
            raise InvalidInput("Add a PROMPT, or --from-draft ID to finish a draft.")
        images = [image_input(image) for image in self.images]
        values: dict[str, Any] = {
            "prompt": self.prompt,
            "seed": self.seed,
            "num_inference_steps": self.steps,
            "image_size": None if self.size is None else _size(self.size),
            "num_images": self.count,
            "image_url": images[0] if len(images) == 1 else None,
            "image_urls": images if len(images) > 1 else None,
            "mask_url": self.mask and image_input(self.mask),
            "strength": self.strength,
            "draft": self._draft(),
            "from_draft": self.from_draft,
            "new_noise": self.new_noise,
        }
        body = {name: value for name, value in values.items() if value is not None}
        body |= dict(_field(pair) for pair in self.fields)
        for name, value in body.items():
            if problem := _unsendable({name: value}):
                raise InvalidInput(f"{self.option_of(name)} is {problem}, so it cannot be sent.")
        return body

    def _draft(self) -> dict[str, Any] | None:
        if self.draft is None:
            if self.until is not None:
                raise InvalidInput("--until says where drafts stop. Add --draft N.")
            return None
        if self.from_draft:
            raise InvalidInput("--draft makes drafts and --from-draft finishes one. Leave out one.")
        return {"count": self.draft} | ({} if self.until is None else {"until": self.until})

    def option_of(self, field: str) -> str:
        """Name of an input field for messages: the option that sets it, if it was not --field."""
        if any(pair.partition("=")[0] == field for pair in self.fields):
            return f"--field {field}"
        return f"{OPTIONS[field]} ({field})" if field in OPTIONS else field


def _unsendable(value: Any) -> str:
    """Why ``value`` cannot be sent as JSON; empty if it can."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return "not text in UTF-8"
    except ValueError:
        return "NaN or infinite"
    return ""


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
        return name, _with_files(json.loads(value), name)
    except ValueError:
        return name, value  # a word that is not JSON is a string


def _with_files(value: Any, name: str) -> Any:
    """``value`` with the content of ``@FILE`` in the fields of its objects that take URLs."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {field: _with_files(inner, field) for field, inner in fields.items()}
    if isinstance(value, list):
        return [_with_files(item, name) for item in cast("list[Any]", value)]
    if isinstance(value, str) and value.startswith("@") and name.endswith(("_url", "_urls")):
        return media_input(value.removeprefix("@"))
    return value
