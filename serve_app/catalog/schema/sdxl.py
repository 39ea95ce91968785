"""Stable Diffusion XL: text to picture, picture to picture, inpainting, and in a few steps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from serve_app.catalog.effects import NotHere
from serve_app.catalog.fields import (
    Embeddings,
    ExpandPrompt,
    Guidance,
    ImageInput,
    Loras,
    MaskUrl,
    NegativePrompt,
    OwnRequestId,
    PictureFormat,
    PictureUrl,
    Prompt,
    SafetyChecker,
    SafetyCheckerVersion,
    Seed,
    Size,
    Steps,
    Strength,
    SyncMode,
    number_of_pictures,
    preset,
)
from serve_app.catalog.outputs import PicturesOutput
from serve_app.catalog.produced import in_format
from serve_app.catalog.pydantic_schema import Shape
from serve_app.catalog.seeds import Seeds

MOST_PICTURES = 8
FORMAT_FIELD = "format"  # what the other families call output_format


SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
LcmModel = Annotated[
    Literal["stabilityai/stable-diffusion-xl-base-1.0", "runwayml/stable-diffusion-v1-5"],
    NotHere("this endpoint stands on one model's weights", granted=(SDXL,)),
    Field(description="Which model draws in a few steps."),
]


class _SdxlInput(ImageInput):
    prompt: Prompt
    negative_prompt: NegativePrompt = ""
    image_size: Size = preset("square_hd")
    num_inference_steps: Steps = 25
    guidance_scale: Guidance = 7.5
    seed: Seed = None
    seeds: Seeds = None
    num_images: int = number_of_pictures(MOST_PICTURES)
    format: PictureFormat = "jpeg"
    sync_mode: SyncMode = False
    enable_safety_checker: SafetyChecker = True
    safety_checker_version: SafetyCheckerVersion = "v1"
    expand_prompt: ExpandPrompt = False
    request_id: OwnRequestId = ""


class SdxlTextToImageInput(_SdxlInput):
    model_config = ConfigDict(title="SdxlTextToImageInput")

    loras: Loras = Field(default_factory=list)
    embeddings: Embeddings = Field(default_factory=list)


class SdxlImageToImageInput(SdxlTextToImageInput):
    model_config = ConfigDict(title="SdxlImageToImageInput")

    image_url: PictureUrl
    strength: Strength = 0.95
    image_size: Size = preset("square")
    preserve_aspect_ratio: bool = Field(
        default=False, description="Keep the given picture's shape, within the size."
    )
    crop_output: bool = Field(
        default=False, description="Give the result the given picture's shape."
    )


class SdxlInpaintingInput(SdxlTextToImageInput):
    model_config = ConfigDict(title="SdxlInpaintingInput")

    image_url: PictureUrl
    mask_url: MaskUrl
    strength: Strength = 0.95


class LcmTextToImageInput(_SdxlInput):
    """Latent consistency: a handful of steps."""

    model_config = ConfigDict(title="LcmTextToImageInput")

    model_name: LcmModel = SDXL
    num_inference_steps: Steps = 6
    guidance_scale: Guidance = 1.5
    guidance_rescale: float = Field(
        default=0.0, ge=0, le=1, description="Take some of guidance's contrast back."
    )
    sync_mode: SyncMode = True


TEXT_TO_IMAGE = Shape(SdxlTextToImageInput, PicturesOutput, in_format(FORMAT_FIELD))
IMAGE_TO_IMAGE = Shape(SdxlImageToImageInput, PicturesOutput, in_format(FORMAT_FIELD))
INPAINTING = Shape(SdxlInpaintingInput, PicturesOutput, in_format(FORMAT_FIELD))
LCM = Shape(LcmTextToImageInput, PicturesOutput, in_format(FORMAT_FIELD))
