"""Images from tensors, and files from images."""

from io import BytesIO

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deployments.engine.media.images import encode, fit, to_images
from serve_app.domain.errors import PipelineFailed, Unsupported

pytestmark = pytest.mark.engine


def halves(width, height):
    """Left half red, right half blue."""
    pixels = torch.zeros(1, 3, height, width)
    pixels[:, 0, :, : width // 2] = 1
    pixels[:, 2, :, width // 2 :] = 1
    return pixels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_tensor_becomes_its_image(dtype):
    (image,) = to_images(halves(8, 4).to(dtype))
    assert image.size == (8, 4)
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((7, 3)) == (0, 0, 255)


def test_values_outside_of_the_range_are_clipped():
    (image,) = to_images(torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1))
    assert image.getpixel((0, 0)) == (0, 128, 255)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_no_numbers_are_no_image(value):
    pixels = halves(8, 4)
    pixels[0, 1, 2, 3] = value
    with pytest.raises(PipelineFailed, match="pixels that are not finite numbers"):
        to_images(pixels)


def test_each_of_several_becomes_an_image():
    assert len(to_images(torch.rand(3, 3, 4, 4))) == 3


@pytest.mark.parametrize(
    ("media_type", "name"),
    [("image/png", "PNG"), ("image/jpeg", "JPEG"), ("image/webp", "WEBP")],
)
def test_a_file_is_of_the_asked_type_and_says_nothing_else(media_type, name):
    (image,) = to_images(halves(16, 16))
    with Image.open(BytesIO(encode(image, media_type))) as read:
        assert read.format == name
        assert read.size == (16, 16)
        assert not read.getexif()
        assert set(read.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "loop",
                                  "background", "timestamp", "duration"}  # fmt: skip
        red, _, blue = read.convert("RGB").getpixel((2, 8))
    assert red > 240
    assert blue < 15


def test_png_keeps_every_pixel():
    (image,) = to_images(torch.rand(1, 3, 9, 7))
    with Image.open(BytesIO(encode(image, "image/png"))) as read:
        assert read.tobytes() == image.tobytes()


def test_what_is_no_image_is_refused():
    with pytest.raises(Unsupported, match="video/mp4"):
        encode(Image.new("RGB", (1, 1)), "video/mp4")


@pytest.mark.parametrize("asked", [(100, 60), (60, 100), (64, 64), (31, 97), (1024, 768)])
def test_fitting_gives_exactly_the_asked_size(asked):
    (image,) = to_images(halves(64, 64))
    assert fit(image, *asked).size == asked


def test_fitting_crops_the_middle_without_resampling_when_it_is_large_enough():
    (image,) = to_images(torch.rand(1, 3, 16, 32))
    fitted = fit(image, 32, 10)
    assert fitted.tobytes() == image.crop((0, 3, 32, 13)).tobytes()


def test_fitting_keeps_the_shape_of_things():
    (image,) = to_images(halves(64, 32))
    fitted = fit(image, 200, 200)
    assert fitted.getpixel((90, 100))[0] > 240
    assert fitted.getpixel((110, 100))[2] > 240


sides = st.integers(1, 300)


@given(sides, sides, sides, sides)
def test_an_image_of_any_size_is_fitted_to_any_other(width, height, to_width, to_height):
    fitted = fit(Image.new("L", (width, height), 200), to_width, to_height)
    assert fitted.size == (to_width, to_height)
    assert fitted.getextrema() == (200, 200)


def test_what_rounding_adds_is_not_asked_of_an_image():
    assert fit(Image.new("L", (104, 72)), 99, 65).size == (99, 65)
