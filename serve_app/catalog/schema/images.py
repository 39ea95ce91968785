"""Qwen-Image inputs: text-to-image, with a negative prompt."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from serve_app.catalog.fields.field_notes import NoEffect
from serve_app.catalog.fields.fields import (
    Acceleration,
    ExpandPrompt,
    Guidance,
    ImageFormat,
    ImageInput,
    ImageUrl,
    Loras,
    NegativePrompt,
    Prompt,
    SafetyChecker,
    Seed,
    Seeds,
    Size,
    Steps,
    SyncMode,
    number_of_images,
    preset,
)
from serve_app.catalog.fields.outputs import ImageOutput, ImagesOutput
from serve_app.catalog.fields.pydantic_schema import Shape

Turbo = Annotated[
    bool,
    NoEffect(
        "the request's own steps and guidance are used; for few steps there is "
        "darkroom/qwen-image-lightning",
        granted=(False,),
    ),
    Field(description="Use few steps and little guidance."),
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
    num_images: int = number_of_images(4)
    output_format: ImageFormat = "png"
    sync_mode: SyncMode = False
    enable_safety_checker: SafetyChecker = True
    acceleration: Acceleration = "none"
    use_turbo: Turbo = False
    loras: Loras = Field(default_factory=list)


QWEN_IMAGE = Shape(QwenImageInput, ImagesOutput)


class QwenImageLightningInput(ImageInput):
    """Model that was distilled for so many steps, without guidance."""

    model_config = ConfigDict(title="QwenImageLightningInput")

    prompt: Prompt
    image_size: Size = preset("landscape_4_3")
    num_inference_steps: Literal[4, 8] = Field(
        default=8, description="Number of denoising steps; each has an adapter of its own."
    )
    seed: Seed = None
    seeds: Seeds = None
    num_images: int = number_of_images(4)
    output_format: ImageFormat = "png"
    sync_mode: SyncMode = False
    enable_safety_checker: SafetyChecker = True
    loras: Loras = Field(default_factory=list)


QWEN_IMAGE_LIGHTNING = Shape(QwenImageLightningInput, ImagesOutput)


# Z-Image Turbo input: text-to-image, without guidance.


class ZImageInput(ImageInput):
    model_config = ConfigDict(title="ZImageInput")

    prompt: Prompt
    image_size: Size = preset("landscape_4_3")
    num_inference_steps: Steps = 8
    seed: Seed = None
    seeds: Seeds = None
    num_images: int = number_of_images(4)
    output_format: ImageFormat = "png"
    sync_mode: SyncMode = False
    enable_safety_checker: SafetyChecker = True
    enable_prompt_expansion: ExpandPrompt = False
    acceleration: Acceleration = "regular"


Z_IMAGE = Shape(ZImageInput, ImagesOutput)


# Real-ESRGAN input: upscaling of an image.

Model = Literal[
    "RealESRGAN_x4plus",
    "RealESRGAN_x2plus",
    "RealESRGAN_x4plus_anime_6B",
    "RealESRGAN_x4_v3",
    "RealESRGAN_x4_wdn_v3",
    "RealESRGAN_x4_anime_v3",
]


class UpscalingInput(ImageInput):
    model_config = ConfigDict(title="UpscalingInput")

    image_url: ImageUrl
    scale: float = Field(default=2.0, ge=1, le=8, description="Factor for width and height.")
    model: Model = Field(default="RealESRGAN_x4plus", description="Upscaling model.")
    tile: int = Field(
        default=0, ge=0, description="Side of a tile in pixels; 0: the whole image at once."
    )
    face: bool = Field(default=False, description="Restore faces as well.")
    output_format: Literal["png", "jpeg"] = Field(
        default="png", description="File format of the image."
    )


UPSCALING = Shape(UpscalingInput, ImageOutput, drafts=False)
