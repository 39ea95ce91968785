"""FLUX.2 [klein], as a realtime edit: each request brings a picture and gets one back."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, ConfigDict, Field

from serve_app.catalog.effects import NoEffect
from serve_app.catalog.fields import (
    ImageInput,
    ImageSize,
    PictureUrl,
    Prompt,
    Seed,
    Steps,
    one_of,
    preset,
    preset_to_size,
)
from serve_app.catalog.outputs import FramesOutput
from serve_app.catalog.produced import nothing
from serve_app.catalog.pydantic_schema import Shape

SquareName = Literal["square", "square_hd"]


def _square(value: object) -> object:
    if value not in get_args(SquareName):
        raise one_of(get_args(SquareName))
    return preset_to_size(value)


SquareSize = Annotated[ImageSize, BeforeValidator(_square, json_schema_input_type=SquareName)]


ON_ITS_OWN = "each frame is drawn on its own here"
Feedback = Annotated[
    float,
    NoEffect(ON_ITS_OWN, granted=(1,)),
    Field(ge=0, le=1, description="How much of the last output goes into the next; 1: nothing."),
]
Interpolation = Annotated[
    bool,
    NoEffect(ON_ITS_OWN, granted=(False,)),
    Field(description="A picture between every two."),
]


class Flux2RealtimeInput(ImageInput):
    model_config = ConfigDict(title="Flux2RealtimeInput")

    image_url: PictureUrl
    prompt: Prompt = 'Turn this into "Living oil painting, melting gold and sapphire"'
    image_size: SquareSize = preset("square")
    num_inference_steps: Steps = 3
    seed: Seed = 35
    schedule_mu: float = Field(
        default=2.3, allow_inf_nan=False, description="Shift of the noise schedule."
    )
    output_feedback_strength: Feedback = 1.0
    enable_interpolation: Interpolation = False


REALTIME = Shape(Flux2RealtimeInput, FramesOutput, nothing)
