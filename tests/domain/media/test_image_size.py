"""Sizes in the shape of an input image."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.media.image_size import AUTO_AREA, MAX_SIDE, MIN_SIDE, MULTIPLE, auto_size


@pytest.mark.parametrize(
    ("image", "size"),
    [
        ((192, 256), (192, 256)),
        ((2048, 1024), (1456, 720)),
        ((3000, 4000), (880, 1184)),
        ((10, 10), (64, 64)),
        ((1000, 10), (992, 64)),
    ],
)
def test_an_image_keeps_its_shape_within_what_models_are_trained_on(
    image: tuple[int, int], size: tuple[int, int]
) -> None:
    assert auto_size(*image) == size


@given(st.integers(1, 50_000), st.integers(1, 50_000))
def test_every_size_is_one_that_models_render_and_costs_one_megapixel(
    width: int, height: int
) -> None:
    size = auto_size(width, height)
    assert size[0] * size[1] <= AUTO_AREA
    assert all(MIN_SIDE <= side <= MAX_SIDE and side % MULTIPLE == 0 for side in size)
    assert auto_size(height, width) == size[::-1]
