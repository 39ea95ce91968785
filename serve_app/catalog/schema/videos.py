"""HunyuanVideo inputs: text-to-video and image-to-video."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from serve_app.catalog.fields.field_notes import NoEffect
from serve_app.catalog.fields.fields import Guidance, SafetyChecker, Steps
from serve_app.catalog.fields.outputs import (
    VideoOutput,
    video_with_poster,
)
from serve_app.catalog.fields.pydantic_schema import Shape
from serve_app.catalog.fields.video_fields import (
    ClipInput,
    FirstImageUrl,
    NegativeVideoPrompt,
)

# LTX-Video and LTX-2 inputs: text-to-video and image-to-video; LTX-2 also makes the audio.

UNWANTED = (
    "low quality, worst quality, deformed, distorted, disfigured, motion smear, motion artifacts, "
    "fused fingers, bad anatomy, weird hand, ugly"
)


def in_words(value: object) -> object:
    """Convert numbers to text: fal's choices among numbers are texts, but clients send numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class LtxTextToVideoInput(ClipInput):
    model_config = ConfigDict(title="LtxTextToVideoInput")

    negative_prompt: NegativeVideoPrompt = UNWANTED
    num_inference_steps: Steps = 30
    guidance_scale: Guidance = 3.0


class LtxImageToVideoInput(LtxTextToVideoInput):
    model_config = ConfigDict(title="LtxImageToVideoInput")

    image_url: FirstImageUrl


class Ltx2TextToVideoInput(ClipInput):
    model_config = ConfigDict(title="Ltx2TextToVideoInput")

    duration: Annotated[
        Literal["6", "8", "10"],
        BeforeValidator(in_words),
        Field(description="Duration in seconds."),
    ] = "6"
    fps: Annotated[
        Literal["25", "50"], BeforeValidator(in_words), Field(description="Frames per second.")
    ] = "25"
    resolution: Annotated[
        Literal["1080p", "1440p", "2160p"], Field(description="Resolution of the video.")
    ] = "1080p"
    generate_audio: bool = Field(default=True, description="Generate an audio track.")
    num_inference_steps: Steps = 40


LTX_TEXT_TO_VIDEO = Shape(LtxTextToVideoInput, VideoOutput, video_with_poster)
LTX_IMAGE_TO_VIDEO = Shape(LtxImageToVideoInput, VideoOutput, video_with_poster)
WITH_AUDIO = Shape(Ltx2TextToVideoInput, VideoOutput, video_with_poster)


class _HunyuanInput(ClipInput):
    resolution: Annotated[
        Literal["480p", "580p", "720p"], Field(description="Resolution of the video.")
    ] = "720p"
    aspect_ratio: Annotated[
        Literal["16:9", "9:16"], Field(description="Aspect ratio of the video.")
    ] = "16:9"
    num_frames: Annotated[
        Literal["129", "85"], BeforeValidator(in_words), Field(description="Number of frames.")
    ] = "129"


class HunyuanTextToVideoInput(_HunyuanInput):
    model_config = ConfigDict(title="HunyuanTextToVideoInput")

    num_inference_steps: Steps = 30
    pro_mode: Annotated[
        bool,
        NoEffect("the request's own steps are used", granted=(False,)),
        Field(description="Use more steps."),
    ] = False
    enable_safety_checker: SafetyChecker = False


class HunyuanImageToVideoInput(_HunyuanInput):
    model_config = ConfigDict(title="HunyuanImageToVideoInput")

    image_url: FirstImageUrl
    num_inference_steps: Steps = 50
    i2v_stability: Annotated[
        bool,
        NoEffect("the model's own treatment of the first frame is used", granted=(False,)),
        Field(description="Stay closer to the input image, with less motion."),
    ] = False


HUNYUAN_TEXT_TO_VIDEO = Shape(HunyuanTextToVideoInput, VideoOutput, video_with_poster)
HUNYUAN_IMAGE_TO_VIDEO = Shape(HunyuanImageToVideoInput, VideoOutput, video_with_poster)
