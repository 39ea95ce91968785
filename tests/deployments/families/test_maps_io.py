"""Arguments of pipelines that predict maps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deployments.families.call_mapping import CallMapping
from deployments.families.maps_io import map_arguments
from serve_app.domain.errors import InvalidInput

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
