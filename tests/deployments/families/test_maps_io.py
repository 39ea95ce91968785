"""Arguments of pipelines that predict maps."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.families.base import GenerationCall, GenerationResult
from deployments.families.call_mapping import CallMapping
from deployments.families.image_io import Size
from deployments.families.maps_io import (
    deliver_image_and_depth,
    depth_arguments,
    map_arguments,
)
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput, Misconfigured

pytestmark = pytest.mark.engine

MAPPING = CallMapping(
    task="image-to-image",
    arguments={"steps": "num_inference_steps", "processing_resolution": "processing_resolution"},
)


def arguments(input: dict[str, Any], **defaults: int | None) -> dict[str, Any]:
    known = {"default_denoising_steps": 4, "default_processing_resolution": 768, **defaults}
    return map_arguments(MAPPING, input, SimpleNamespace(vae_scale_factor=8, **known), seed=1)


def test_one_generator_is_enough_for_an_ensemble() -> None:
    assert arguments({})["generator"].initial_seed() == 1


@pytest.mark.parametrize(
    ("input", "defaults", "words"),
    [
        ({"processing_resolution": 770}, {}, "processing_resolution: Input should be a multiple"),
        ({}, {"default_processing_resolution": None}, "processing_resolution: Field required"),
        ({}, {"default_denoising_steps": None}, "steps: Field required"),
    ],
)
def test_what_the_weights_leave_open_must_be_given(
    input: dict[str, Any], defaults: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        arguments(input, **defaults)


def test_an_image_and_its_depth_are_cropped_alike_and_the_depth_keeps_its_levels() -> None:
    rgb = np.zeros((1, 8, 8, 3), np.float32)
    depth = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    call = GenerationCall({}, {"seed": 1, "size": Size(8, 6), "prompt": ""})
    tickets = [UploadTicket(f"{n}", f"http://x/{n}", "image/png", 10**6) for n in range(2)]
    product = deliver_image_and_depth(
        Endpoint("house/x", "generic", Weights("/x"), "declared"),
        call,
        GenerationResult(SimpleNamespace(rgb=rgb, depth=depth), 1.0, 1),
        tickets,
    )
    assert {(file.width, file.height) for file in product.files} == {(8, 6)}
    assert {"image", "depth_map", "seed", "timings"} <= product.output.keys()
    levels = np.asarray(Image.open(io.BytesIO(bytes(product.files[1].body))))
    assert levels.dtype == np.uint16
    assert (levels == np.rint(depth[0, 1:7, :, 0].astype(float) * 65535)).all()


def test_depth_in_several_channels_is_refused_because_diffusers_loses_it() -> None:
    def pipeline(channels: int) -> Any:
        return SimpleNamespace(vae=SimpleNamespace(config=SimpleNamespace(out_channels=channels)))

    assert depth_arguments(pipeline(4)) == {"output_type": "np"}
    with pytest.raises(Misconfigured, match="several channels of 8 bits"):
        depth_arguments(pipeline(6))
