"""The pictures of a call that edits them: from the parts of a form to fields of an input."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from serve_app.domain.errors import InvalidInput
from serve_app.ingress.endpoint_fields import EndpointFields

MOST_GIVEN = 16
MOST_PIXELS = 64_000_000
USUAL_AREA = 1024 * 1024
SIDE_MULTIPLE, LEAST_SIDE = 16, 64


@dataclass(frozen=True, slots=True)
class GivenPicture:
    """A picture of the call's: its file, and its size in pixels."""

    content: bytes
    media_type: str
    width: int
    height: int

    @property
    def data_uri(self) -> str:
        return data_uri(self.content, self.media_type)


def data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def given_picture(content: bytes, parameter: str) -> GivenPicture:
    """Reads its header only; ``InvalidInput`` names ``parameter`` when it is no picture."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            media_type = Image.MIME.get(picture.format or "", "application/octet-stream")
            width, height = picture.size
    except (OSError, ValueError, Image.DecompressionBombError):
        message = "The file cannot be read as a picture"
        raise InvalidInput.of_field(parameter, message, "image_load_error") from None
    if width * height > MOST_PIXELS:
        message = f"{width}×{height} is more than {MOST_PIXELS // 1_000_000} megapixels"
        raise InvalidInput.of_field(parameter, message, "image_too_large")
    return GivenPicture(content, media_type, width, height)


def fields_of(
    pictures: Sequence[bytes], mask: bytes | None, fields: EndpointFields
) -> dict[str, Any]:
    """The input's fields for them. Takes long for large ones: for a thread.

    The mask is OpenAI's, transparent where to redraw; endpoints want white there.
    """
    given = [given_picture(each, "image") for each in pictures]
    found: dict[str, Any] = {}
    one, several = "image_url", "image_urls"
    if len(given) > 1 or not fields.takes(one):
        if not fields.takes(several):
            message = f"This endpoint takes one picture, not {len(given)}"
            raise InvalidInput.of_field("image", message, "feature_not_supported")
        found[several] = [each.data_uri for each in given]
    else:
        found[one] = given[0].data_uri
    if "image_size" in fields:
        # Its usual size is not the picture's shape, which it would be stretched to.
        found["image_size"] = fitting_size(given[0])
    if mask is not None:
        found["mask_url"] = data_uri(_white_where_transparent(mask, given[0]), "image/png")
    return found


def fitting_size(picture: GivenPicture) -> dict[str, int]:
    """A size of its shape, and at most of the area that models are trained on."""
    scale = min(1.0, (USUAL_AREA / (picture.width * picture.height)) ** 0.5)
    sides = (picture.width * scale, picture.height * scale)
    width, height = (max(LEAST_SIDE, round(side / SIDE_MULTIPLE) * SIDE_MULTIPLE) for side in sides)
    return {"width": width, "height": height}


def _white_where_transparent(mask: bytes, picture: GivenPicture) -> bytes:
    header = given_picture(mask, "mask")
    if (header.width, header.height) != (picture.width, picture.height):
        message = (
            f"The mask is {header.width}×{header.height} and the picture "
            f"{picture.width}×{picture.height}: they should be of one size"
        )
        raise InvalidInput.of_field("mask", message)
    try:
        with Image.open(io.BytesIO(mask)) as opened:
            if not opened.has_transparency_data:
                message = "The mask has no transparency: what is transparent in it is redrawn"
                raise InvalidInput.of_field("mask", message)
            alpha = opened.convert("RGBA").getchannel("A")
    except (OSError, ValueError, SyntaxError):
        message = "The file cannot be read as a picture"
        raise InvalidInput.of_field("mask", message, "image_load_error") from None
    white = io.BytesIO()
    alpha.point([255 - level for level in range(256)]).save(white, "PNG")
    return white.getvalue()
