"""Images that the apps read and write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import darkroom
from darkroom_apps.shared import images


def saved(path: Path, size: tuple[int, int] = (30, 20), exif: Image.Exif | None = None) -> Path:
    Image.new("RGB", size, "red").save(path, exif=exif)
    return path


def test_an_image_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 599)
    with pytest.raises(darkroom.InvalidField, match="30×20 pixels") as caught:
        images.read(darkroom.Image(saved(tmp_path / "large.png")))
    assert caught.value.field == "image_url"


@pytest.mark.parametrize("content", [b"no image", b"", b"\x89PNG\r\n\x1a\n\0\0"])
def test_what_is_no_image_is_refused_with_its_field(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.png").write_bytes(content)
    with pytest.raises(darkroom.InvalidField, match="cannot be read") as caught:
        images.read(darkroom.Image(tmp_path / "text.png"), "mask_url")
    assert caught.value.field == "mask_url"


def test_an_image_is_upright_as_browsers_show_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    image = images.read(darkroom.Image(saved(tmp_path / "turned.jpg", exif=exif)))
    assert (image.mode, image.size) == ("RGB", (20, 30))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode)
    more = {"transparency": 0} if mode == "P" else {}
    clear.save(tmp_path / "clear.png", **more)
    image = images.read(darkroom.Image(tmp_path / "clear.png"))
    assert (image.mode, image.getpixel((1, 1))) == ("RGB", (255, 255, 255))


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
    written = images.written(image, format)  # pyright: ignore[reportArgumentType]
    assert written.media_type == f"image/{format}"
    made = written.open().convert("RGBA")
    for number, each in enumerate(expected):
        pixel = made.getpixel((16 * number + 8, 8))
        assert isinstance(pixel, tuple)
        if each is None:
            assert pixel[3] == 0
        else:
            assert np.abs(np.array(pixel) - np.array(each)).max() <= 3
