"""Qwen-Image: text to picture, with a negative prompt."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from serve_app.catalog.effects import NoEffect
from serve_app.catalog.fields import (
    Acceleration,
    Guidance,
    ImageInput,
    Loras,
    NegativePrompt,
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

Turbo = Annotated[
    bool,
    NoEffect("the request's own steps and guidance are used", granted=(False,)),
    Field(description="Few steps and little guidance."),
]


class QwenImageInput(ImageInput):
    model_config = ConfigDict(title="QwenImageInput")

    prompt: Prompt
    negative_prompt: NegativePrompt = " "
    image_size: Size = preset("landscape_4_3")
    num_inference_steps: Steps = 30
    guidance_scale: Guidance = 2.5
    seed: Seed = None
    seeds: Seeds = None
    num_images: int = number_of_pictures(4)
    output_format: PictureFormat = "png"
    sync_mode: SyncMode = False
    enable_safety_checker: SafetyChecker = True
    acceleration: Acceleration = "none"
    use_turbo: Turbo = False
    loras: Loras = Field(default_factory=list)


TEXT_TO_IMAGE = Shape(QwenImageInput, PicturesOutput)
