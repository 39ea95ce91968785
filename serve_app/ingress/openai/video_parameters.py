"""Translation of OpenAI's video parameters to the fields of an endpoint's input."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from serve_app.domain.errors import InvalidInput
from serve_app.ingress.openai.parameters import Parameters, not_here
from serve_app.ingress.submission.model_lookup import EndpointFields

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
MAX_SECONDS = 600.0
MAX_RATE = 1000.0  # frames per second

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
"""Field of an endpoint's input → OpenAI's parameter that sets it."""


Seconds = Annotated[
    float,
    Field(gt=0, le=MAX_SECONDS),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "description": "As OpenAI's clients send it."},
                {
                    "type": "number",
                    "exclusiveMinimum": True,
                    "minimum": 0,
                    "maximum": MAX_SECONDS,
                },
            ]
        }
    ),
]
"""Number, also as text."""


class VideoParameters(Parameters):
    """OpenAI's parameters of ``videos``."""

    prompt: str
    model: str | None = Field(
        default=None, description="Id of an endpoint, or an alias. Default: an endpoint for videos."
    )
    seconds: Seconds | None = Field(default=None, description="Length of the video.")
    size: str | None = Field(default=None, description="Pixels, as in `1280x720`.")


def input_of(parameters: VideoParameters, fields: EndpointFields) -> dict[str, Any]:
    """Build the endpoint's input. ``InvalidInput`` names each parameter that it cannot apply."""
    if parameters.go_on(fields):
        return {**(parameters.model_extra or {}), **_passed_on(parameters)}
    more = parameters.own_fields(fields)
    return {
        "prompt": parameters.prompt,
        **_length(parameters, fields),
        **_size(parameters.size, fields),
        **more,
    }


def _passed_on(parameters: VideoParameters) -> dict[str, Any]:
    """Input of an endpoint at OpenAI, whose ``seconds`` are a text."""
    arguments = {"prompt": parameters.prompt, "size": parameters.size}
    arguments["seconds"] = None if parameters.seconds is None else f"{parameters.seconds:g}"
    return {name: value for name, value in arguments.items() if value is not None}


def length_text(input: Mapping[str, Any]) -> str:
    """Length in seconds of the video that this input makes, as OpenAI writes it; empty if the input
    does not set it."""
    for name in ("duration", "seconds"):
        if input.get(name) is not None:
            return str(input[name])
    rate = next((input[name] for name in RATES if input.get(name)), None)
    frames, per_second = _positive(input.get("num_frames")), _positive(rate)
    if frames is None or per_second is None:  # the schema `open` takes anything
        return ""
    return f"{round(frames / per_second, 2):g}"


def size_text(input: Mapping[str, Any]) -> str:
    """Size in pixels of the video that this input makes; empty if the input does not set it."""
    for name in SIZES:
        size = input.get(name)
        if isinstance(size, Mapping) and "width" in size and "height" in size:
            return f"{size['width']}x{size['height']}"
    if _SIZE.fullmatch(str(input.get("size"))):  # as OpenAI writes it
        return str(input["size"])
    across, _, down = str(input.get("aspect_ratio", "")).partition(":")
    sides = [_positive(across), _positive(down)]
    short = _positive(str(input.get("resolution", "")).removesuffix("p"))
    if short is None or sides[0] is None or sides[1] is None:
        return ""
    ratio = _positive(sides[0] / sides[1])
    long = _positive(short * max(ratio, 1 / ratio)) if ratio else None
    if ratio is None or long is None:  # the schema `open` takes any numbers
        return ""
    width, height = (long, short) if ratio >= 1 else (short, long)
    return f"{round(width)}x{round(height)}"


def _length(parameters: VideoParameters, fields: EndpointFields) -> dict[str, Any]:
    if parameters.seconds is None:
        return {}
    if "duration" in fields:
        return {"duration": _choice("seconds", parameters.seconds, fields.choices("duration"))}
    rate = next((name for name in RATES if name in fields), None)
    if "num_frames" not in fields or rate is None:
        if fields.accepts("seconds"):  # the schema `open` takes every field unchanged
            return {"seconds": parameters.seconds}
        raise not_here("seconds", "this endpoint makes videos of one length only")
    frame_rate = (parameters.model_extra or {}).get(rate)
    per_second = _positive(fields.default(rate) if frame_rate is None else frame_rate)
    if frame_rate is None and per_second is None:
        raise not_here("seconds", f"this endpoint needs {rate} with it")
    if per_second is None or per_second > MAX_RATE:
        message = f"Input should be a number above 0, at most {MAX_RATE:g}"
        raise InvalidInput.of_field(rate, message)
    frames = round(parameters.seconds * per_second)
    _check_length(frames, per_second, fields.bounds("num_frames"))
    return {"num_frames": frames}


def _check_length(frames: int, per_second: float, bounds: tuple[float, float]) -> None:
    """Raise ``InvalidInput`` in seconds for a number of frames outside ``bounds``, of which the
    client knows nothing."""
    least, most = bounds
    if least <= frames <= most:
        return
    if frames > most:
        at_most = math.floor(100 * most / per_second) / 100
        what, type_, context = "less", "less_than_equal", {"le": at_most}
    else:
        at_least = math.ceil(100 * least / per_second) / 100
        what, type_, context = "greater", "greater_than_equal", {"ge": at_least}
    (limit,) = context.values()
    message = f"Input should be {what} than or equal to {limit:g}"
    raise InvalidInput.of_field("seconds", message, type_, context)


def _choice(parameter: str, seconds: float, choices: tuple[Any, ...]) -> Any:
    """Item of ``choices`` with this length, in the endpoint's spelling (``5``, ``"5"``, ``"5s"``).

    Without choices it is the number itself.
    """
    if not choices:
        return int(seconds) if seconds.is_integer() else seconds
    for choice in choices:
        length = _positive(str(choice).removesuffix("s"))
        if length is not None and math.isclose(length, seconds):
            return choice
    raise not_here(parameter, f"this endpoint makes videos of {', '.join(map(str, choices))}")


def _positive(value: object) -> float | None:
    """Finite number above 0, also as text. None for everything else."""
    if not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 < number < math.inf else None


def _size(size: str | None, fields: EndpointFields) -> dict[str, Any]:
    if size is None or size == "auto":
        return {}
    match = _SIZE.fullmatch(size)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (width and height):
        raise InvalidInput.of_field("size", "Input should be pixels, as in `1280x720`")
    for name in SIZES:
        if name in fields:
            return {name: {"width": width, "height": height}}
    if "resolution" in fields:
        return _resolution(width, height, fields)
    if fields.accepts("size"):
        return {"size": size}
    raise not_here("size", "this endpoint makes videos of one size only")


def _resolution(width: int, height: int, fields: EndpointFields) -> dict[str, Any]:
    """Input fields for a size: the resolution of its shorter side, and the aspect ratio."""
    arguments: dict[str, Any] = {"resolution": f"{min(width, height)}p"}
    resolutions, ratios = fields.choices("resolution"), fields.choices("aspect_ratio")
    offered = f"{', '.join(map(str, resolutions))}, of {', '.join(map(str, ratios)) or 'one ratio'}"
    if arguments["resolution"] not in resolutions:
        raise not_here("size", f"this endpoint makes {offered}")
    if "aspect_ratio" in fields:
        exact = [ratio for ratio in ratios if _is_ratio(str(ratio), width, height)]
        if not exact:
            raise not_here("size", f"this endpoint makes {offered}")
        arguments["aspect_ratio"] = exact[0]
    return arguments


def _is_ratio(ratio: str, width: int, height: int) -> bool:
    across, _, down = ratio.partition(":")
    return across.isdecimal() and down.isdecimal() and int(across) * height == int(down) * width
