"""Images that the apps write."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from darkroom_apps.shared import images


def test_values_become_levels() -> None:
    values = np.array([[-1, 0, 0.5], [1, 2, 0.25]], np.float32)
    assert np.asarray(images.grey(values)).tolist() == [[0, 0, 128], [255, 255, 64]]
    assert np.asarray(images.grey(values > 0)).tolist() == [[0, 0, 255], [255, 255, 255]]


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("png", [(200, 0, 0, 255), (200, 0, 0, 100), (200, 0, 0, 0)]),
        ("jpeg", [(200, 0, 0, 255), (78, 0, 0, 255), (0, 0, 0, 255)]),
        ("gif", [(200, 0, 0, 255), None, None]),
    ],
)
def test_each_format_shows_what_is_transparent_as_it_can(format: str, expected: list[None]) -> None:
    image = Image.new("RGBA", (48, 16), (200, 0, 0, 255))
    for left, alpha in ((16, 100), (32, 0)):
        image.paste((200, 0, 0, alpha), (left, 0, left + 16, 16))
    written = images.to_file(image, format)
    assert written.media_type == f"image/{format}"
    decoded = written.open("RGBA")
    for number, colour in enumerate(expected):
        pixel = decoded.getpixel((16 * number + 8, 8))
        assert isinstance(pixel, tuple)
        if colour is None:
            assert pixel[3] == 0
        else:
            assert np.abs(np.array(pixel) - np.array(colour)).max() <= 3
