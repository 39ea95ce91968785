"""LTX-Video and LTX-2: clips from text, and from text and a picture; LTX-2's with their sound."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from serve_app.catalog.clip_fields import (
    ClipInput,
    FirstPictureUrl,
    NegativeClipPrompt,
)
from serve_app.catalog.fields import Guidance, Steps
from serve_app.catalog.outputs import VideoOutput
from serve_app.catalog.produced import clip_with_poster
from serve_app.catalog.pydantic_schema import Shape

UNWANTED = (
    "low quality, worst quality, deformed, distorted, disfigured, motion smear, motion artifacts, "
    "fused fingers, bad anatomy, weird hand, ugly"
)


def in_words(value: object) -> object:
    """fal's choices among numbers are texts, and clients send numbers too."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class LtxTextToVideoInput(ClipInput):
    model_config = ConfigDict(title="LtxTextToVideoInput")

    negative_prompt: NegativeClipPrompt = UNWANTED
    num_inference_steps: Steps = 30
    guidance_scale: Guidance = 3.0


class LtxImageToVideoInput(LtxTextToVideoInput):
    model_config = ConfigDict(title="LtxImageToVideoInput")

    image_url: FirstPictureUrl


class Ltx2TextToVideoInput(ClipInput):
    model_config = ConfigDict(title="Ltx2TextToVideoInput")

    duration: Annotated[
        Literal["6", "8", "10"], BeforeValidator(in_words), Field(description="Seconds.")
    ] = "6"
    fps: Annotated[
        Literal["25", "50"], BeforeValidator(in_words), Field(description="Frames a second.")
    ] = "25"
    resolution: Annotated[
        Literal["1080p", "1440p", "2160p"], Field(description="How large it is.")
    ] = "1080p"
    generate_audio: bool = Field(default=True, description="With its sound.")
    num_inference_steps: Steps = 40


TEXT_TO_VIDEO = Shape(LtxTextToVideoInput, VideoOutput, clip_with_poster)
IMAGE_TO_VIDEO = Shape(LtxImageToVideoInput, VideoOutput, clip_with_poster)
WITH_SOUND = Shape(Ltx2TextToVideoInput, VideoOutput, clip_with_poster)
