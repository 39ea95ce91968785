"""Stable Diffusion XL inputs: text-to-image, image-to-image, inpainting, and few-step variants."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from serve_app.catalog.fields.field_notes import NotSupported
from serve_app.catalog.fields.fields import (
    Embeddings,
    ExpandPrompt,
    Guidance,
    ImageFormat,
    ImageInput,
    ImageUrl,
    Loras,
    MaskUrl,
    NegativePrompt,
    OwnRequestId,
    PreserveUnmasked,
    Prompt,
    SafetyChecker,
    SafetyCheckerVersion,
    Seed,
    Seeds,
    Size,
    SizeOrAuto,
    Steps,
    Strength,
    SyncMode,
    number_of_images,
    preset,
)
from serve_app.catalog.fields.outputs import ImagesOutput, in_format
from serve_app.catalog.fields.pydantic_schema import Shape

MAX_IMAGES = 8
FORMAT_FIELD = "format"  # other families call it output_format


SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
LcmModel = Annotated[
    Literal["stabilityai/stable-diffusion-xl-base-1.0", "runwayml/stable-diffusion-v1-5"],
    NotSupported("this endpoint has the weights of only one model", granted=(SDXL,)),
    Field(description="Model for few-step generation."),
]

LightningSteps = Annotated[
    Literal["1", "2", "4", "8"],
    BeforeValidator(lambda value: str(value) if isinstance(value, int) else value),
    NotSupported("a single step has no adapter", granted=("2", "4", "8")),
    Field(description="Number of denoising steps; each has an adapter of its own."),
]

KeepsRatio = Annotated[
    bool, Field(description="Keep the input image's aspect ratio, within the size.")
]
TakesRatio = Annotated[bool, Field(description="Give the result the input image's aspect ratio.")]


class _SharedInput(ImageInput):
    prompt: Prompt
    image_size: Size = preset("square_hd")
    seed: Seed = None
    seeds: Seeds = None
    num_images: int = number_of_images(MAX_IMAGES)
    format: ImageFormat = "jpeg"
    sync_mode: SyncMode = False
    enable_safety_checker: SafetyChecker = True
    safety_checker_version: SafetyCheckerVersion = "v1"
    expand_prompt: ExpandPrompt = False
    request_id: OwnRequestId = ""


class _SdxlInput(_SharedInput):
    negative_prompt: NegativePrompt = ""
    num_inference_steps: Steps = 25
    guidance_scale: Guidance = 7.5


class SdxlTextToImageInput(_SdxlInput):
    model_config = ConfigDict(title="SdxlTextToImageInput")

    loras: Loras = Field(default_factory=list)
    embeddings: Embeddings = Field(default_factory=list)


class SdxlImageToImageInput(SdxlTextToImageInput):
    model_config = ConfigDict(title="SdxlImageToImageInput")

    image_url: ImageUrl
    strength: Strength = 0.95
    image_size: SizeOrAuto = preset("square")
    preserve_aspect_ratio: KeepsRatio = False
    crop_output: TakesRatio = False


class SdxlInpaintingInput(SdxlTextToImageInput):
    model_config = ConfigDict(title="SdxlInpaintingInput")

    image_url: ImageUrl
    mask_url: MaskUrl
    strength: Strength = 0.95
    image_size: SizeOrAuto = preset("square_hd")
    preserve_unmasked: PreserveUnmasked = True


class LcmTextToImageInput(_SdxlInput):
    """Latent consistency model: needs only a few steps."""

    model_config = ConfigDict(title="LcmTextToImageInput")

    model_name: LcmModel = SDXL
    num_inference_steps: Steps = 6
    guidance_scale: Guidance = 1.5
    guidance_rescale: float = Field(
        default=0.0, ge=0, le=1, description="Reduce the contrast that guidance adds."
    )
    sync_mode: SyncMode = True


class LightningTextToImageInput(_SharedInput):
    """Model that was distilled for so many steps, without guidance."""

    model_config = ConfigDict(title="LightningTextToImageInput")

    num_inference_steps: LightningSteps = "4"
    embeddings: Embeddings = Field(default_factory=list)


class LightningImageToImageInput(LightningTextToImageInput):
    model_config = ConfigDict(title="LightningImageToImageInput")

    image_url: ImageUrl
    strength: Strength = 0.95
    image_size: SizeOrAuto = preset("square_hd")
    preserve_aspect_ratio: KeepsRatio = False
    crop_output: TakesRatio = False


class LightningInpaintingInput(LightningTextToImageInput):
    model_config = ConfigDict(title="LightningInpaintingInput")

    image_url: ImageUrl
    mask_url: MaskUrl
    strength: Strength = 0.95
    image_size: SizeOrAuto = preset("square_hd")
    preserve_unmasked: PreserveUnmasked = True


TEXT_TO_IMAGE = Shape(SdxlTextToImageInput, ImagesOutput, in_format(FORMAT_FIELD))
IMAGE_TO_IMAGE = Shape(SdxlImageToImageInput, ImagesOutput, in_format(FORMAT_FIELD))
INPAINTING = Shape(SdxlInpaintingInput, ImagesOutput, in_format(FORMAT_FIELD))
LCM = Shape(LcmTextToImageInput, ImagesOutput, in_format(FORMAT_FIELD))
LIGHTNING = Shape(LightningTextToImageInput, ImagesOutput, in_format(FORMAT_FIELD))
LIGHTNING_IMAGE_TO_IMAGE = Shape(LightningImageToImageInput, ImagesOutput, in_format(FORMAT_FIELD))
LIGHTNING_INPAINTING = Shape(LightningInpaintingInput, ImagesOutput, in_format(FORMAT_FIELD))
