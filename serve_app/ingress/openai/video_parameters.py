"""What a call for a clip asks for, in the fields of the endpoint that makes it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.catalog.problems import invalid_input
from serve_app.domain.errors import InvalidInput
from serve_app.ingress.endpoint_fields import EndpointFields

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
MOST_SECONDS = 600.0

RATES = ("frames_per_second", "fps")
SIZES = ("video_size", "image_size")

NAMES: Mapping[str, str] = {
    "num_frames": "seconds",
    "duration": "seconds",
    "resolution": "size",
    "aspect_ratio": "size",
    "video_size": "size",
    "image_size": "size",
    "image_url": "input_reference",
}
"""Field of an endpoint's input → parameter of OpenAI's that it is filled from."""


class ClipParameters(BaseModel):
    """OpenAI's parameters. What else is sent is kept: it may be a field of the endpoint."""

    model_config = ConfigDict(extra="allow")

    prompt: str
    model: str | None = None
    seconds: float | None = Field(default=None, gt=0, le=MOST_SECONDS)
    size: str | None = None

    @classmethod
    def read(cls, body: object) -> ClipParameters:
        """``InvalidInput`` names the parameter."""
        if not isinstance(body, dict):
            raise InvalidInput("The body must be a JSON object with the call's parameters.")
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise invalid_input(error) from None


def input_of(given: ClipParameters, fields: EndpointFields) -> dict[str, Any]:
    """``InvalidInput`` names each parameter that the endpoint cannot honour."""
    more = given.model_extra or {}
    for name in more:
        if not fields.takes(name):
            message = "Neither a parameter that is supported here nor a field of the endpoint"
            raise InvalidInput.of_field(name, message, "unknown_parameter")
    return {"prompt": given.prompt, **_length(given, fields), **_size(given.size, fields), **more}


def told_length(input: Mapping[str, Any]) -> str:
    """Seconds of the clip that this input makes, as OpenAI writes them; empty: it does not say."""
    rate = next((input[name] for name in RATES if input.get(name)), None)
    if input.get("duration") is not None:
        return str(input["duration"])
    if rate and input.get("num_frames"):
        return f"{round(float(input['num_frames']) / float(rate), 2):g}"
    return ""


def told_size(input: Mapping[str, Any]) -> str:
    """Pixels of the clip that this input makes; empty: it does not say."""
    for name in SIZES:
        size = input.get(name)
        if isinstance(size, Mapping):
            return f"{size['width']}x{size['height']}"
    lines = str(input.get("resolution", "")).removesuffix("p")
    across, _, down = str(input.get("aspect_ratio", "")).partition(":")
    if not (lines.isdecimal() and across.isdecimal() and down.isdecimal()):
        return ""
    short, ratio = int(lines), int(across) / int(down)
    width, height = (short * ratio, short) if ratio >= 1 else (short, short / ratio)
    return f"{round(width)}x{round(height)}"


def _length(given: ClipParameters, fields: EndpointFields) -> dict[str, Any]:
    if given.seconds is None:
        return {}
    if "duration" in fields:
        return {"duration": _choice("seconds", given.seconds, fields.choices("duration"))}
    rate = next((name for name in RATES if name in fields), None)
    if "num_frames" not in fields or rate is None:
        if fields.takes("seconds"):  # the schema `open` takes everything, as it was sent
            return {"seconds": given.seconds}
        raise _not_here("seconds", "this endpoint makes clips of one length")
    per_second = float((given.model_extra or {}).get(rate) or fields.default(rate))
    return {"num_frames": round(given.seconds * per_second)}


def _choice(parameter: str, seconds: float, choices: tuple[Any, ...]) -> Any:
    """The one of ``choices`` that is as long, as the endpoint spells it (``5``, ``"5"``, ``"5s"``);
    the number itself where it lists none."""
    if not choices:
        return int(seconds) if seconds.is_integer() else seconds
    for each in choices:
        if math.isclose(float(str(each).removesuffix("s")), seconds):
            return each
    raise _not_here(parameter, f"this endpoint makes clips of {', '.join(map(str, choices))}")


def _size(size: str | None, fields: EndpointFields) -> dict[str, Any]:
    if size is None or size == "auto":
        return {}
    found = _SIZE.fullmatch(size)
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    if not (width and height):
        raise InvalidInput.of_field("size", "Input should be pixels, as in `1280x720`")
    for name in SIZES:
        if name in fields:
            return {name: {"width": width, "height": height}}
    if "resolution" in fields:
        return _resolution(width, height, fields)
    if fields.takes("size"):
        return {"size": size}
    raise _not_here("size", "this endpoint makes clips of one size")


def _resolution(width: int, height: int, fields: EndpointFields) -> dict[str, Any]:
    """By the name of the shorter side, and the ratio where there is a choice of it."""
    wanted: dict[str, Any] = {"resolution": f"{min(width, height)}p"}
    resolutions, ratios = fields.choices("resolution"), fields.choices("aspect_ratio")
    offered = f"{', '.join(map(str, resolutions))}, of {', '.join(map(str, ratios)) or 'one ratio'}"
    if wanted["resolution"] not in resolutions:
        raise _not_here("size", f"this endpoint makes {offered}")
    if "aspect_ratio" in fields:
        exact = [each for each in ratios if _is_ratio(str(each), width, height)]
        if not exact:
            raise _not_here("size", f"this endpoint makes {offered}")
        wanted["aspect_ratio"] = exact[0]
    return wanted


def _is_ratio(ratio: str, width: int, height: int) -> bool:
    across, _, down = ratio.partition(":")
    return across.isdecimal() and down.isdecimal() and int(across) * height == int(down) * width


def _not_here(parameter: str, because: str) -> InvalidInput:
    message = f"Not supported here: {because}"
    return InvalidInput.of_field(parameter, message, "feature_not_supported")
