"""Inputs by Replicate's names, which differ from fal's for the same thing.

Replicate's models have no common schema. These are the names of its official image and video
models (FLUX, SDXL, Stable Diffusion 3.5, Wan, HunyuanVideo, Real-ESRGAN). A field that the endpoint
itself has is never changed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from serve_app.catalog.catalog import Catalog, CatalogEntry
from serve_app.domain.endpoint import CONTEXT_MARK
from serve_app.domain.errors import InvalidInput
from serve_app.domain.media.image_size import in_shape_of_image
from serve_app.ingress.submission.model_lookup import EndpointFields, find_capable

RENAMED: Mapping[str, str] = {
    "num_outputs": "num_images",
    "guidance": "guidance_scale",
    "image": "image_url",
    "mask": "mask_url",
    "prompt_strength": "strength",
    "fps": "frames_per_second",
}
RENAMED_IF_THERE: Mapping[str, str] = {
    "sample_steps": "num_inference_steps",
    "infer_steps": "num_inference_steps",
    "sample_shift": "shift",
    "sample_guide_scale": "guide_scale",
    "video_length": "num_frames",
    "last_image": "end_image_url",
    "face_enhance": "face",
}
"""Names of single models. Their examples have them with their defaults, so an endpoint without the
counterpart ignores them with a line in the log, as it does other unknown fields."""
WITH_AN_IMAGE = frozenset({"prompt_strength"})
"""Fields that say how an image is used. Examples have them with their defaults, without an image.
"""
FORMAT_FIELDS = ("output_format", "format")
SIDE = 16  # sides are multiples of it
MAX_RATIO = 8
SMALL_AREA, AREA = 2**18, 2**20  # pixels; FLUX's `megapixels` are 0.25 and 1
_RATIO = re.compile(r"([0-9]{1,4}):([0-9]{1,4})")


def translate(
    catalog: Catalog, entry: CatalogEntry, arguments: Mapping[str, Any]
) -> tuple[CatalogEntry, dict[str, Any]]:
    """Endpoint for the input, and the input by its names.

    An input with an image goes to the sibling endpoint that takes one, such as
    ``fal-ai/flux/dev/image-to-image``. Raises ``InvalidInput`` for a field of Replicate's that the
    endpoint has no counterpart of, and ``Unsupported`` if there is no such sibling. Other unknown
    fields are passed on: the endpoint ignores them with a line in the log.
    """
    entry = _capable(catalog, entry, arguments)
    fields = EndpointFields(entry)
    inputs: dict[str, Any] = {}
    for name, value in arguments.items():
        if fields.accepts(name) or value is None:
            inputs[name] = _format(value) if name in FORMAT_FIELDS else value
        elif name in WITH_AN_IMAGE and not arguments.get("image") and RENAMED[name] not in fields:
            inputs[name] = value  # is ignored, as by Replicate's own models
        elif name in RENAMED:
            inputs[_field(entry, fields, name, RENAMED[name])] = value
        elif RENAMED_IF_THERE.get(name) in fields.named:
            inputs[RENAMED_IF_THERE[name]] = value
        elif name == "output_format":
            inputs[_field(entry, fields, name, "format")] = _format(value)
        elif name == "disable_safety_checker" and "enable_safety_checker" in fields:
            inputs["enable_safety_checker"] = not value
        elif name not in ("aspect_ratio", "megapixels", "width", "height"):
            inputs[name] = value
    if (size := _size(entry, fields, arguments)) is not None:
        inputs.setdefault("image_size", size)
    return entry, in_shape_of_image(inputs, fields.named)


def cog_context(entry: CatalogEntry, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Field of the input for what a prediction's body has in ``context``, beside its input. Empty
    without one. ``InvalidInput`` if the endpoint is no model that reads it."""
    context = body.get("context")
    if not context:
        return {}
    if not EndpointFields(entry).has_mark("context", CONTEXT_MARK):
        raise _invalid(
            "context",
            f"is read by no model of {entry.endpoint.id}: leave it out. It is for Cog models whose "
            "code reads `current_scope().context`",
        )
    return {"context": context}


def _capable(catalog: Catalog, entry: CatalogEntry, arguments: Mapping[str, Any]) -> CatalogEntry:
    """Endpoint that takes the image and the mask of the input."""
    fields = EndpointFields(entry)
    if arguments.get("mask") and not fields.accepts("mask"):
        if not arguments.get("image") and not arguments.get("image_url"):
            raise _invalid("mask", "needs `image` beside it")
        return find_capable(catalog, entry, ("mask_url",), ("inpainting",), "use a mask")
    if arguments.get("image") and not fields.accepts("image"):
        tasks = ("image-to-image", "image-to-video")
        return find_capable(catalog, entry, ("image_url",), tasks, "change an image")
    return entry


def _size(
    entry: CatalogEntry, fields: EndpointFields, arguments: Mapping[str, Any]
) -> dict[str, int] | None:
    """Value of ``image_size`` that the input asks for by other names; None if it does not."""
    if (ratio := arguments.get("aspect_ratio")) is not None and not fields.accepts("aspect_ratio"):
        _field(entry, fields, "aspect_ratio", "image_size")
        return _of_ratio(str(ratio), SMALL_AREA if _is_small(arguments) else AREA)
    sides = {
        name: arguments[name] for name in ("width", "height") if arguments.get(name) is not None
    }
    if sides and not fields.accepts("width"):
        (first, *others) = sides
        _field(entry, fields, first, "image_size")
        if not others and "image_size" not in arguments:
            other = "height" if first == "width" else "width"
            raise _invalid(first, f"needs `{other}` beside it")
        return sides
    return _square(fields, arguments)


def _square(fields: EndpointFields, arguments: Mapping[str, Any]) -> dict[str, int] | None:
    """Size for ``megapixels`` alone, of Replicate's usual shape. An image keeps its own."""
    own = fields.accepts("megapixels") or fields.accepts("aspect_ratio")
    if own or "image_size" not in fields or arguments.get("image"):
        return None
    known = str(arguments.get("megapixels")) in ("1", "0.25")
    return _of_ratio("1:1", SMALL_AREA if _is_small(arguments) else AREA) if known else None


def _format(value: Any) -> Any:
    return "jpeg" if value == "jpg" else value


def _is_small(arguments: Mapping[str, Any]) -> bool:
    return str(arguments.get("megapixels")) == "0.25"


def _of_ratio(ratio: str, area: float) -> dict[str, int]:
    match = _RATIO.fullmatch(ratio)
    across, down = (int(match[1]), int(match[2])) if match else (0, 0)
    if not across or not down:
        raise _invalid("aspect_ratio", f"should be like 16:9, and is {ratio[:40]!r}")
    shape = across / down
    if not 1 / MAX_RATIO <= shape <= MAX_RATIO:
        raise _invalid("aspect_ratio", f"should be at most {MAX_RATIO}:1 or 1:{MAX_RATIO}")
    return {
        "width": SIDE * round(math.sqrt(area * shape) / SIDE),
        "height": SIDE * round(math.sqrt(area / shape) / SIDE),
    }


def _field(entry: CatalogEntry, fields: EndpointFields, name: str, own: str) -> str:
    """``own``, the endpoint's name of ``name``. Raises ``InvalidInput`` if it has no such field."""
    if own in fields:
        return own
    raise _invalid(name, f"is not possible with {entry.endpoint.id}: leave it out")


def _invalid(name: str, what: str) -> InvalidInput:
    return InvalidInput.of_field(name, what)
