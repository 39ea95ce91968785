"""Flux: text to picture, with adapters, and picture to picture."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from serve_app.catalog.fields import (
    Acceleration,
    Guidance,
    ImageInput,
    Loras,
    PictureFormat,
    PictureUrl,
    Prompt,
    SafetyChecker,
    Seed,
    Size,
    Steps,
    Strength,
    SyncMode,
    number_of_pictures,
    preset,
)
from serve_app.catalog.outputs import PicturesOutput
from serve_app.catalog.pydantic_schema import Shape
from serve_app.catalog.seeds import Seeds

MOST_PICTURES = 4


class _FluxInput(ImageInput):
    prompt: Prompt
    num_inference_steps: Steps = 28
    guidance_scale: Guidance = 3.5
    seed: Seed = None
    seeds: Seeds = None
    num_images: int = number_of_pictures(MOST_PICTURES)
    output_format: PictureFormat = "jpeg"
    sync_mode: SyncMode = False
    enable_safety_checker: SafetyChecker = True
    acceleration: Acceleration = "none"


class FluxTextToImageInput(_FluxInput):
    model_config = ConfigDict(title="FluxTextToImageInput")

    image_size: Size = preset("landscape_4_3")


class FluxLoraInput(FluxTextToImageInput):
    model_config = ConfigDict(title="FluxLoraInput")

    loras: Loras = Field(default_factory=list)


class FluxImageToImageInput(_FluxInput):
    """The output has the shape of the given picture."""

    model_config = ConfigDict(title="FluxImageToImageInput")

    image_url: PictureUrl
    strength: Strength = 0.95
    num_inference_steps: Steps = 40


TEXT_TO_IMAGE = Shape(FluxTextToImageInput, PicturesOutput)
LORA = Shape(FluxLoraInput, PicturesOutput)
IMAGE_TO_IMAGE = Shape(FluxImageToImageInput, PicturesOutput)
