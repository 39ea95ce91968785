"""How large a clip is, how long, and how fast. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from deployments.picture_size import Size, asked_size
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput, Misconfigured

SIZES: Mapping[str, Mapping[str, Size]] = {
    "480p": {"16:9": Size(832, 480), "9:16": Size(480, 832), "1:1": Size(624, 624)},
    "580p": {"16:9": Size(1024, 576), "9:16": Size(576, 1024), "1:1": Size(768, 768)},
    "720p": {"16:9": Size(1280, 720), "9:16": Size(720, 1280), "1:1": Size(960, 960)},
    "1080p": {"16:9": Size(1920, 1080), "9:16": Size(1080, 1920), "1:1": Size(1440, 1440)},
    "1440p": {"16:9": Size(2560, 1440), "9:16": Size(1440, 2560), "1:1": Size(1920, 1920)},
    "2160p": {"16:9": Size(3840, 2160), "9:16": Size(2160, 3840), "1:1": Size(2880, 2880)},
}
"""Resolution → aspect ratio → size. Those up to 720p are what Wan was trained with."""

OF_SCREENS = frozenset({"1080p", "1440p", "2160p"})
"""Those that are delivered to the line, because screens and players count on it: 1088 lines are
rendered, and 1080 are left. Of the others models know their own, such as Wan's 704 for 720p."""

WIDE, AUTO = "16:9", "auto"
FPS_FIELDS = ("frames_per_second", "frame_rate", "fps")
MOST_DENOMINATOR = 1001  # of television's 30000/1001


def clip_size(
    endpoint: Endpoint, input: Mapping[str, Any], multiple: int, given: Size | None
) -> Size:
    """What to deliver. A size in pixels is exact, and so are those of screens. Another that a
    resolution means, or that follows the shape of the ``given`` picture, is of multiples of
    ``multiple``, of which models render."""
    if input.get("image_size") is not None:
        return asked_size(input["image_size"])
    box = _box(endpoint, input)
    ratio = input.get("aspect_ratio") or (AUTO if given else WIDE)
    if ratio == AUTO and given is not None:
        return _in_shape(given, box, multiple)
    if input.get("resolution") in OF_SCREENS:
        return box
    return Size(_down(box.width, multiple), _down(box.height, multiple))


def asked_fps(endpoint: Endpoint, input: Mapping[str, Any]) -> Fraction:
    """Of the input, or else of the endpoint's option ``clip``."""
    for name in FPS_FIELDS:
        if input.get(name) is not None:
            return _fraction(name, input[name])
    return _fraction("fps", _own(endpoint, "fps"))


def asked_frames(endpoint: Endpoint, input: Mapping[str, Any], fps: Fraction) -> int:
    """How many frames the file has: ``num_frames``, or as many as ``duration`` takes, or those of
    the endpoint's option ``clip``."""
    if input.get("num_frames") is not None:
        return int(input["num_frames"])
    if input.get("duration") is not None:
        return max(1, round(_fraction("duration", input["duration"]) * fps))
    return int(_own(endpoint, "num_frames"))


def rendered_frames(asked: int, compression: int) -> int:
    """The least number of at least ``asked`` that the autoencoder can make: the first frame by
    itself, and then ``compression`` at a time."""
    return math.ceil((asked - 1) / compression) * compression + 1


def _box(endpoint: Endpoint, input: Mapping[str, Any]) -> Size:
    resolution = input.get("resolution")
    if resolution is None:
        return Size(int(_own(endpoint, "width")), int(_own(endpoint, "height")))
    if resolution not in SIZES:
        raise InvalidInput.of_field("resolution", f"Input should be one of {', '.join(SIZES)}")
    sizes = SIZES[resolution]
    ratio = input.get("aspect_ratio") or WIDE
    if ratio not in sizes and ratio != AUTO:
        raise InvalidInput.of_field("aspect_ratio", f"Input should be one of {', '.join(sizes)}")
    return sizes.get(ratio, sizes[WIDE])


def _in_shape(shape: Size, box: Size, multiple: int) -> Size:
    """As many pixels as the box has, in the shape."""
    area, ratio = box.width * box.height, shape.height / shape.width
    high, wide = math.sqrt(area * ratio), math.sqrt(area / ratio)
    return Size(_down(round(wide), multiple), _down(round(high), multiple))


def _down(side: int, multiple: int) -> int:
    return max(multiple, side // multiple * multiple)


def _own(endpoint: Endpoint, name: str) -> Any:
    clip = endpoint.options.get("clip")
    if not isinstance(clip, Mapping) or name not in clip:
        raise Misconfigured(
            f"{endpoint.id}: its input does not say the {name} of a clip, so `options.clip` in the "
            f"catalogue has to, as `clip: {{{name}: …}}`."
        )
    return clip[name]


def _fraction(name: str, value: Any) -> Fraction:
    try:
        made = Fraction(str(value)).limit_denominator(MOST_DENOMINATOR)
    except (ValueError, ZeroDivisionError):
        made = Fraction(0)
    if made <= 0:
        raise InvalidInput.of_field(name, "Input should be a number greater than 0")
    return made
