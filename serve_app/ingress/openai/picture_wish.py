"""What a call for pictures asks for, in the fields of the endpoint that makes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.catalog.problems import invalid_input
from serve_app.domain.errors import InvalidInput
from serve_app.ingress.endpoint_fields import EndpointFields

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
MOST_PICTURES, MOST_PARTIAL = 10, 3

STEPS: Mapping[str, float] = {
    "low": 0.5,
    "medium": 1.0,
    "standard": 1.0,
    "high": 1.5,
    "hd": 1.5,
    "xhigh": 2.0,
    "max": 4.0,
}
"""Quality → denoising steps, as a multiple of the endpoint's own number, within its bounds."""

NAMES: Mapping[str, str] = {
    "num_images": "n",
    "image_size": "size",
    "format": "output_format",
    "image_url": "image",
    "image_urls": "image",
    "mask_url": "mask",
}
"""Field of an endpoint's input → parameter of OpenAI's that it is filled from."""


class PictureParameters(BaseModel):
    """OpenAI's parameters, of ``images/generations`` and ``images/edits`` alike. What else is sent
    is kept: it may be a field of the endpoint."""

    model_config = ConfigDict(extra="allow")

    prompt: str
    model: str | None = None
    n: int | None = Field(default=None, ge=1, le=MOST_PICTURES)
    size: str | None = None
    quality: Literal["auto", "low", "medium", "standard", "high", "hd", "xhigh", "max"] | None = (
        None
    )
    output_format: str | None = None
    output_compression: int | None = Field(default=None, ge=0, le=100)
    background: Literal["auto", "opaque", "transparent"] | None = None
    moderation: Literal["auto", "low"] | None = None
    style: Literal["vivid", "natural"] | None = None
    input_fidelity: Literal["low", "high"] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    stream: bool | None = None
    partial_images: int | None = Field(default=None, ge=0, le=MOST_PARTIAL)
    user: str | None = None
    safety_identifier: str | None = None

    @classmethod
    def read(cls, body: object) -> PictureParameters:
        """``InvalidInput`` names the parameter."""
        if not isinstance(body, dict):
            raise InvalidInput("The body must be a JSON object with the call's parameters.")
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise invalid_input(error) from None


@dataclass(frozen=True, slots=True)
class PictureWish:
    """A call as the endpoint takes it, and how its answer is to look."""

    input: dict[str, Any]
    told: dict[str, Any]  # what the answer repeats: quality, background, size …
    forms: frozenset[str]  # how a picture is handed out: "url", "b64_json", or both
    streamed: bool
    partial_images: int

    @property
    def size(self) -> str:
        return self.told["size"]


def wish_of(given: PictureParameters, fields: EndpointFields) -> PictureWish:
    """``InvalidInput`` names each parameter that the endpoint cannot honour."""
    _refuse(given)
    wanted: dict[str, Any] = {"prompt": given.prompt, **_own_fields(given, fields)}
    if given.n is not None and (given.n > 1 or "num_images" in fields):
        wanted[_field(fields, "n", "num_images")] = given.n
    size = _size(given.size)
    if size is not None:
        wanted[_field(fields, "size", "image_size")] = {"width": size[0], "height": size[1]}
    wanted |= _format(given, fields) | _steps(given, fields)
    told = {
        "background": given.background or "auto",
        "quality": given.quality or "auto",
        "size": given.size or "auto",
        "safety_identifier": given.safety_identifier or given.user,
    }
    return PictureWish(
        input=wanted,
        told={name: value for name, value in told.items() if value is not None},
        forms=frozenset((given.response_format,) if given.response_format else ("url", "b64_json")),
        streamed=bool(given.stream),
        partial_images=given.partial_images or 0,
    )


def names_of(given: PictureParameters) -> Mapping[str, str]:
    """``NAMES``, and the number of steps where it came from the quality."""
    return {**NAMES, "num_inference_steps": "quality"} if given.quality else NAMES


def _refuse(given: PictureParameters) -> None:
    if given.background == "transparent":
        raise _not_here("background", "no endpoint here makes transparent pictures")
    if given.output_compression not in (None, 100):
        raise _not_here("output_compression", "files are written at the best quality")
    if given.style == "natural":
        raise _not_here("style", "describe the style in the prompt")
    if given.input_fidelity == "high":
        raise _not_here("input_fidelity", "say how much is redrawn with the endpoint's `strength`")


def _own_fields(given: PictureParameters, fields: EndpointFields) -> dict[str, Any]:
    """What OpenAI does not know and the endpoint does, such as ``seed``."""
    more = given.model_extra or {}
    for name in more:
        if not fields.takes(name):
            message = "Neither a parameter that is supported here nor a field of the endpoint"
            raise InvalidInput.of_field(name, message, "unknown_parameter")
    return dict(more)


def _size(size: str | None) -> tuple[int, int] | None:
    """Pixels; None: as the endpoint chooses."""
    if size is None or size == "auto":
        return None
    found = _SIZE.fullmatch(size)
    if found is None:
        raise InvalidInput.of_field("size", "Input should be `auto`, or pixels as in `1024x1024`")
    return int(found[1]), int(found[2])


def _format(given: PictureParameters, fields: EndpointFields) -> dict[str, Any]:
    """PNG unless told, as OpenAI has it: people name their files by it."""
    name = next((each for each in ("output_format", "format") if each in fields), None)
    if name is None:
        # The schema `open` names no fields: only what is asked for goes there.
        asked = given.output_format
        return {_field(fields, "output_format", "output_format"): asked} if asked else {}
    choices = fields.choices(name)
    if given.output_format is None:
        return {name: "png"} if "png" in choices else {}
    if given.output_format not in choices:
        raise _not_here("output_format", f"this endpoint writes {', '.join(choices)}")
    return {name: given.output_format}


def _steps(given: PictureParameters, fields: EndpointFields) -> dict[str, Any]:
    factor = STEPS.get(given.quality or "auto")
    if factor is None:
        return {}
    usual = fields.default("num_inference_steps")
    if not isinstance(usual, int):
        if factor == 1.0:
            return {}
        raise _not_here("quality", "this endpoint has one quality")
    if "num_inference_steps" in (given.model_extra or {}):
        return {}  # said more exactly
    least, most = fields.bounds("num_inference_steps")
    return {"num_inference_steps": round(min(max(usual * factor, least), most))}


def _field(fields: EndpointFields, parameter: str, name: str) -> str:
    if not fields.takes(name):
        raise _not_here(parameter, f"this endpoint has no such choice (its `{name}`)")
    return name


def _not_here(parameter: str, because: str) -> InvalidInput:
    message = f"Not supported here: {because}"
    return InvalidInput.of_field(parameter, message, "feature_not_supported")
