"""Flux inputs: text-to-image, with LoRAs, and image-to-image."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, ConfigDict, Field

from serve_app.catalog.fields.field_notes import NoEffect
from serve_app.catalog.fields.fields import (
    Acceleration,
    Guidance,
    ImageFormat,
    ImageInput,
    ImageSize,
    ImageUrl,
    Loras,
    Prompt,
    SafetyChecker,
    Seed,
    Seeds,
    Size,
    Steps,
    Strength,
    SyncMode,
    number_of_images,
    one_of,
    preset,
    preset_to_size,
)
from serve_app.catalog.fields.outputs import FramesOutput, ImagesOutput, nothing
from serve_app.catalog.fields.pydantic_schema import Shape

MAX_IMAGES = 4


class _FluxInput(ImageInput):
    prompt: Prompt
    num_inference_steps: Steps = 28
    guidance_scale: Guidance = 3.5
    seed: Seed = None
    seeds: Seeds = None
    num_images: int = number_of_images(MAX_IMAGES)
    output_format: ImageFormat = "jpeg"
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
    """Image-to-image. The output has the shape of the input image."""

    model_config = ConfigDict(title="FluxImageToImageInput")

    image_url: ImageUrl
    strength: Strength = 0.95
    num_inference_steps: Steps = 40


TEXT_TO_IMAGE = Shape(FluxTextToImageInput, ImagesOutput)
LORA = Shape(FluxLoraInput, ImagesOutput)
IMAGE_TO_IMAGE = Shape(FluxImageToImageInput, ImagesOutput)


# FLUX.2 [klein] realtime editing: each request brings an image and gets one back.

SquareName = Literal["square", "square_hd"]


def _square(value: object) -> object:
    if value not in get_args(SquareName):
        raise one_of(get_args(SquareName))
    return preset_to_size(value)


SquareSize = Annotated[ImageSize, BeforeValidator(_square, json_schema_input_type=SquareName)]


ON_ITS_OWN = "each frame is generated independently here"
Feedback = Annotated[
    float,
    NoEffect(ON_ITS_OWN, granted=(1,)),
    Field(ge=0, le=1, description="Share of the last output in the next input; 1: none of it."),
]
Interpolation = Annotated[
    bool,
    NoEffect(ON_ITS_OWN, granted=(False,)),
    Field(description="Add an interpolated image between every two."),
]


class Flux2RealtimeInput(ImageInput):
    model_config = ConfigDict(title="Flux2RealtimeInput")

    image_url: ImageUrl
    prompt: Prompt = 'Turn this into "Living oil painting, melting gold and sapphire"'
    image_size: SquareSize = preset("square")
    num_inference_steps: Steps = 3
    seed: Seed = 35
    schedule_mu: float = Field(
        default=2.3, allow_inf_nan=False, description="Shift of the noise schedule."
    )
    output_feedback_strength: Feedback = 1.0
    enable_interpolation: Interpolation = False


REALTIME = Shape(Flux2RealtimeInput, FramesOutput, nothing, drafts=False)
