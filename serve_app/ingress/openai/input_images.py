"""Images of an edit call: from the parts of a form to fields of an input."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from serve_app.domain.errors import InvalidInput
from serve_app.ingress.submission.model_lookup import EndpointFields

MAX_INPUT_IMAGES = 16

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""Formats that the replicas read. Decoders of other formats would only be there to be attacked."""

MAX_PIXELS = 50_000_000
"""Limit of an image, as in the replicas. Its pixels are not decoded here."""

MAX_MASK_PIXELS = 16_000_000
"""Limit of a mask, whose pixels are decoded here, to 80 MB. Models use 1 to 4 megapixels."""
USUAL_AREA = 1024 * 1024
SIDE_MULTIPLE, MIN_SIDE = 16, 64


@dataclass(frozen=True, slots=True)
class InputImage:
    """Image sent by the client: its file, and its size in pixels."""

    content: bytes
    media_type: str
    width: int
    height: int

    @property
    def data_uri(self) -> str:
        return data_uri(self.content, self.media_type)


def data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def read_image(content: bytes, parameter: str) -> InputImage:
    """Read an image's header. ``InvalidInput`` names ``parameter`` if the file is not an image."""
    with _opened(content, parameter) as image:
        media_type = Image.MIME.get(image.format or "", "application/octet-stream")
        width, height = image.size
    _check_size(width, height, MAX_PIXELS, parameter)
    return InputImage(content, media_type, width, height)


@contextmanager
def _opened(content: bytes, parameter: str) -> Generator[Image.Image]:
    """Open an image, whose pixels the block may decode. ``InvalidInput`` names ``parameter``."""
    try:
        with warnings.catch_warnings():
            # Our own limit is below Pillow's warning threshold.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                yield image
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        # Pillow's decoders raise all of these for damaged files.
        message = f"The file cannot be read as an image ({', '.join(FORMATS)})"
        raise InvalidInput.of_field(parameter, message, "image_load_error") from None


def _check_size(width: int, height: int, most: int, parameter: str) -> None:
    if width * height > most:
        message = f"{width}×{height} exceeds the limit of {most // 1_000_000} megapixels"
        raise InvalidInput.of_field(parameter, message, "image_too_large", {"max_pixels": most})


def fields_of(
    images: Sequence[bytes], mask: bytes | None, fields: EndpointFields
) -> dict[str, Any]:
    """Input fields for the images. It takes long for large ones, so call it in a thread.

    OpenAI's mask is transparent where the image is to be redrawn. Endpoints need white there.
    """
    given = [read_image(each, "image") for each in images]
    found: dict[str, Any] = {}
    one, several = "image_url", "image_urls"
    if len(given) > 1 or not fields.accepts(one):
        if not fields.accepts(several):
            message = f"This endpoint takes one image, not {len(given)}"
            raise InvalidInput.of_field("image", message, "feature_not_supported")
        found[several] = [each.data_uri for each in given]
    else:
        found[one] = given[0].data_uri
    if "image_size" in fields:
        # The endpoint's default size may have another aspect ratio, and would distort the image.
        found["image_size"] = fitting_size(given[0])
    if mask is not None:
        found["mask_url"] = data_uri(_white_where_transparent(mask, given[0]), "image/png")
    return found


def fitting_size(image: InputImage) -> dict[str, int]:
    """Size with the image's aspect ratio, and at most the area that models are trained on."""
    scale = min(1.0, (USUAL_AREA / (image.width * image.height)) ** 0.5)
    sides = (image.width * scale, image.height * scale)
    width, height = (max(MIN_SIDE, round(side / SIDE_MULTIPLE) * SIDE_MULTIPLE) for side in sides)
    return {"width": width, "height": height}


def _white_where_transparent(mask: bytes, image: InputImage) -> bytes:
    header = read_image(mask, "mask")
    if (header.width, header.height) != (image.width, image.height):
        message = (
            f"The mask is {header.width}×{header.height} and the image "
            f"{image.width}×{image.height}: they must have the same size"
        )
        raise InvalidInput.of_field("mask", message)
    _check_size(header.width, header.height, MAX_MASK_PIXELS, "mask")
    with _opened(mask, "mask") as opened:
        if not opened.has_transparency_data:
            message = "The mask has no transparency: make the area to redraw transparent"
            raise InvalidInput.of_field("mask", message)
        alpha = opened.convert("RGBA").getchannel("A")
    white = io.BytesIO()
    alpha.point([255 - level for level in range(256)]).save(white, "PNG")
    return white.getvalue()
