"""Images of requests, read by ``darkroom.images``; an error names the field of the input."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

from darkroom import images
from serve_app.domain.errors import InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image


def read_header(body: bytes, field: str) -> images.ImageHeader:
    """Read the header of an image. Raises ``InvalidInput`` naming the field."""
    with _naming(field):
        return images.read_header(BytesIO(body))


def read_image(body: bytes, field: str, least_side: int = 1) -> Image:
    """Decode an image as RGB. Raises ``InvalidInput`` naming the field.

    ``least_side``: minimum pixels of each side.
    """
    with _naming(field):
        return images.read_image(BytesIO(body), least_side=least_side)


def read_mask(
    body: bytes, field: str, least_side: int = 1, note: Callable[[str], None] | None = None
) -> Image:
    """Decode a mask as L: white is selected. Raises ``InvalidInput`` naming the field.

    ``note`` gets a sentence on a mask that may mean something else, or that selects nothing.
    """
    named = None if note is None else lambda sentence: note(f"{field}: {sentence}")
    with _naming(field):
        return images.read_mask(BytesIO(body), least_side=least_side, note=named)


def read_alpha(body: bytes, field: str, most_pixels: int = images.MAX_PIXELS) -> Image | None:
    """Decode the alpha channel of an image as L, in the ingress. None if it has none. Raises
    ``InvalidInput`` naming the field."""
    with _naming(field):
        _check_bounded(body)
        return images.read_alpha(BytesIO(body), most_pixels=most_pixels)


def read_colours(body: bytes, field: str) -> Image:
    """Decode an image as RGB, in the ingress. Transparent parts have the colours that the file has
    there. Raises ``InvalidInput`` naming the field."""
    with _naming(field):
        _check_bounded(body)
        return images.read_image(BytesIO(body), on_white=False)


def _check_bounded(body: bytes) -> None:
    """Raise ``ImageError`` for a file that may take more memory than its header says.

    The frame inside of an AVIF may be larger: one of 2 kB and 64×64 pixels took 350 MB, and Pillow
    has no limit for the decoder, which itself ends at 268 megapixels. A replica has the memory: an
    image of 50 megapixels takes 380 MB, and 810 MB with an alpha channel.
    """
    if images.read_header(BytesIO(body)).media_type == "image/avif":
        message = "an AVIF file cannot be combined with a mask: use a PNG file"
        raise images.ImageError(message, images.UNSUPPORTED)


@contextmanager
def _naming(field: str) -> Generator[None]:
    try:
        yield
    except images.ImageError as error:
        raise InvalidInput.of_field(field, error.message, error.type, error.context) from error
