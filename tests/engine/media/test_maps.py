"""Images from maps that a model predicts."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from deployments.engine.media.images import encode, thumbnail, to_images
from deployments.engine.media.maps import (
    as_tensor,
    exact_depth,
    intrinsics,
    shown_depth,
    shown_normals,
)
from serve_app.domain.errors import PipelineFailed

pytestmark = pytest.mark.engine

DEPTH = torch.tensor([0.0, 0.25, 1.0]).view(1, 1, 3)


def test_depth_keeps_16_bits_in_its_file():
    with Image.open(BytesIO(encode(exact_depth(DEPTH), "image/png"))) as image:
        assert image.mode == "I;16"
        assert np.asarray(image).tolist() == [[0, 16384, 65535]]


def test_what_is_near_is_light():
    assert [shown_depth(DEPTH, near_is_high=False).getpixel((x, 0))[0] for x in range(3)] == [
        255,
        191,
        0,
    ]
    assert shown_depth(DEPTH, near_is_high=True).getpixel((2, 0)) == (255, 255, 255)


def test_a_normal_that_faces_the_viewer_is_the_usual_blue():
    assert shown_normals(torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)).getpixel((0, 0)) == (
        128,
        128,
        255,
    )


def test_arrays_are_read_with_their_channels_last():
    assert as_tensor(np.zeros((1, 2, 3, 1), np.float32)).shape == (1, 1, 2, 3)


def test_a_map_with_values_that_are_no_numbers_is_no_image():
    with pytest.raises(PipelineFailed):
        as_tensor(torch.full((1, 1, 2, 2), float("nan")))


def test_maps_have_the_names_of_the_weights():
    properties = {
        "target_names": ["albedo", "material"],
        "albedo": {"prediction_space": "srgb"},
        "material": {"prediction_space": "stack", "sub_target_names": ["roughness", None, None]},
        "roughness": {"prediction_space": "linear"},
    }
    images = intrinsics(torch.full((2, 3, 4, 5), 0.5), properties)
    assert {*images} == {"albedo", "material", "roughness"}
    assert {(image.mode, image.size) for image in images.values()} == {("RGB", (5, 4))}


def test_layers_keep_their_transparency_also_in_thumbnails():
    layers = torch.zeros(3, 4, 8, 8)
    images = to_images([layers])
    assert [(picture.mode, picture.getpixel((0, 0))) for picture in images] == [
        ("RGBA", (0, 0, 0, 0))
    ] * 3
    small, *_ = thumbnail(images[0])
    with Image.open(BytesIO(small)) as image:
        assert image.convert("RGBA").getpixel((0, 0))[3] == 0
