"""Rendered size for a requested size."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deployments.families.image_io import Size, rendered_size, requested_size
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput

ENDPOINT = Endpoint("x", "sdxl", Weights(""), "x", "image-to-image")

sides = st.integers(64, 2048)
multiples = st.sampled_from([8, 16, 32])


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("square_hd", Size(1024, 1024)),
        ("landscape_4_3", Size(1024, 768)),
        ("portrait_16_9", Size(576, 1024)),
        ({"width": 300, "height": 200}, Size(300, 200)),
        ("auto", Size(192, 256)),
    ],
)
def test_an_input_names_a_preset_the_sides_or_the_shape_of_its_image(value, size):
    image = Image.new("L", (192, 256))
    assert requested_size(ENDPOINT, {"image_size": value, "image_url": image}) == size


def test_a_size_in_the_shape_of_an_image_keeps_the_bound_of_the_endpoint():
    bounded = replace(ENDPOINT, bounds={"megapixels": (0, 0.25)})
    image = Image.new("L", (4096, 1024))
    size = requested_size(bounded, {"image_size": "auto", "image_url": image})
    assert size == Size(976, 256)


def test_an_unknown_preset_is_refused():
    with pytest.raises(InvalidInput, match="circle"):
        requested_size(ENDPOINT, {"image_size": "circle"})


@given(sides, sides, multiples)
def test_without_a_native_size_the_rendering_covers_what_is_asked_by_the_least(w, h, multiple):
    rendered = rendered_size(Size(w, h), multiple, None)
    for side, requested in ((rendered.width, w), (rendered.height, h)):
        assert side % multiple == 0
        assert requested <= side < requested + multiple


@given(sides, sides, multiples)
def test_a_native_size_is_the_longer_side(w, h, multiple):
    rendered = rendered_size(Size(w, h), multiple, 128)
    assert max(rendered.width, rendered.height) == 128
    assert min(rendered.width, rendered.height) >= multiple
    assert rendered.width % multiple == rendered.height % multiple == 0
    assert (rendered.width >= rendered.height) or (h > w)


@pytest.mark.parametrize(
    ("preset", "size"),
    [
        ("square", Size(128, 128)),
        ("landscape_4_3", Size(128, 96)),
        ("portrait_4_3", Size(96, 128)),
        ("landscape_16_9", Size(128, 64)),
    ],
)
def test_presets_at_a_native_size_of_128(preset, size):
    assert rendered_size(requested_size(ENDPOINT, {"image_size": preset}), 32, 128) == size
