"""Z-Image Turbo: text to picture, without guidance."""

from __future__ import annotations

from pydantic import ConfigDict

from serve_app.catalog.fields import (
    Acceleration,
    ExpandPrompt,
    ImageInput,
    PictureFormat,
    Prompt,
    SafetyChecker,
    Seed,
    Size,
    Steps,
    SyncMode,
    number_of_pictures,
    preset,
)
from serve_app.catalog.outputs import PicturesOutput
from serve_app.catalog.pydantic_schema import Shape
from serve_app.catalog.seeds import Seeds


class ZImageInput(ImageInput):
    model_config = ConfigDict(title="ZImageInput")

    prompt: Prompt
    image_size: Size = preset("landscape_4_3")
    num_inference_steps: Steps = 8
    seed: Seed = None
    seeds: Seeds = None
    num_images: int = number_of_pictures(4)
    output_format: PictureFormat = "png"
    sync_mode: SyncMode = False
    enable_safety_checker: SafetyChecker = True
    enable_prompt_expansion: ExpandPrompt = False
    acceleration: Acceleration = "regular"


TEXT_TO_IMAGE = Shape(ZImageInput, PicturesOutput)
