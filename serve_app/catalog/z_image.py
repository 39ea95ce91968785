"""Z-Image Turbo: text to picture, without guidance."""

from __future__ import annotations

from pydantic import ConfigDict, Field

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
    preset,
)
from serve_app.catalog.outputs import PicturesOutput
from serve_app.catalog.pydantic_schema import Shape


class ZImageInput(ImageInput):
    model_config = ConfigDict(title="ZImageInput")

    prompt: Prompt
    image_size: Size = preset("landscape_4_3")
    num_inference_steps: Steps = 8
    seed: Seed = None
    num_images: int = Field(default=1, ge=1, le=4, description="How many pictures to make.")
    output_format: PictureFormat = "png"
    sync_mode: SyncMode = False
    enable_safety_checker: SafetyChecker = True
    enable_prompt_expansion: ExpandPrompt = False
    acceleration: Acceleration = "regular"


TEXT_TO_IMAGE = Shape(ZImageInput, PicturesOutput)
