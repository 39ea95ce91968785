"""Images of an edit call: from the parts of a form to fields of an input."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import ImageChops

from darkroom.images import ImageHeader
from serve_app.domain.errors import InvalidInput
from serve_app.domain.media.data_uri import data_uri
from serve_app.domain.media.images import read_alpha, read_header
from serve_app.ingress.submission.model_lookup import EndpointFields

MAX_INPUT_IMAGES = 16

MAX_MASK_PIXELS = 16_000_000
"""Limit of a mask, whose pixels are decoded here, to 80 MB. Models use 1 to 4 megapixels."""


def image_uri(content: bytes, parameter: str) -> str:
    """Data URI of an image. ``InvalidInput`` names ``parameter`` if the file is none."""
    return data_uri(content, read_header(content, parameter).media_type)


def fields_of(
    images: Sequence[bytes], mask: bytes | None, fields: EndpointFields
) -> dict[str, Any]:
    """Input fields for the images. It takes long for large ones, so call it in a thread.

    OpenAI's mask is transparent where the image is to be redrawn. Endpoints need white there.
    """
    headers = [read_header(image, "image") for image in images]
    uris = [
        data_uri(content, header.media_type)
        for content, header in zip(images, headers, strict=True)
    ]
    inputs: dict[str, Any] = {}
    single, several = "image_url", "image_urls"
    if len(images) > 1 or not fields.accepts(single):
        if not fields.accepts(several):
            message = f"This endpoint takes one image, not {len(images)}"
            raise InvalidInput.of_field("image", message, "feature_not_supported")
        inputs[several] = uris
    else:
        inputs[single] = uris[0]
    if mask is not None:
        inputs["mask_url"] = data_uri(_white_where_transparent(mask, headers[0]), "image/png")
    return inputs


def _white_where_transparent(mask: bytes, image: ImageHeader) -> bytes:
    header = read_header(mask, "mask")
    if (header.width, header.height) != (image.width, image.height):
        message = (
            f"The mask is {header.width}×{header.height} and the image "
            f"{image.width}×{image.height}: they must have the same size"
        )
        raise InvalidInput.of_field("mask", message)
    alpha = read_alpha(mask, "mask", MAX_MASK_PIXELS)
    if alpha is None:
        message = "The mask has no transparency: make the area to redraw transparent"
        raise InvalidInput.of_field("mask", message)
    white = io.BytesIO()
    ImageChops.invert(alpha).save(white, "PNG")
    return white.getvalue()
