"""Input files of requests, by their kind."""

from io import BytesIO

import pytest
from PIL import Image

from deployments.engine.media.input import MAX_ASPECT, InputKind, read_input
from serve_app.domain.errors import InvalidInput


def png(width: int, height: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_an_image_that_is_much_longer_than_wide_is_refused_with_its_field() -> None:
    """Some processors of models made a side of no pixels of it: the request failed with a 500."""
    for size in ((8 * MAX_ASPECT + 1, 8), (8, 8 * MAX_ASPECT + 1)):
        with pytest.raises(InvalidInput, match=r"image_urls\.1: the image is .* 200 times"):
            read_input(InputKind.IMAGE, png(*size), "image_urls.1")
    assert read_input(InputKind.IMAGE, png(8 * MAX_ASPECT, 8), "image_url").size == (1600, 8)
