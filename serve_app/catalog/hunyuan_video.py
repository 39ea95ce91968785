"""HunyuanVideo: clips from text, and from text and a picture."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from serve_app.catalog.clip_fields import ClipInput, FirstPictureUrl
from serve_app.catalog.effects import NoEffect
from serve_app.catalog.fields import SafetyChecker, Steps
from serve_app.catalog.ltx_video import in_words
from serve_app.catalog.outputs import VideoOutput
from serve_app.catalog.produced import clip_with_poster
from serve_app.catalog.pydantic_schema import Shape


class _HunyuanInput(ClipInput):
    resolution: Annotated[
        Literal["480p", "580p", "720p"], Field(description="How large it is.")
    ] = "720p"
    aspect_ratio: Annotated[
        Literal["16:9", "9:16"], Field(description="Width and height of the clip.")
    ] = "16:9"
    num_frames: Annotated[
        Literal["129", "85"], BeforeValidator(in_words), Field(description="Frames of the clip.")
    ] = "129"


class HunyuanTextToVideoInput(_HunyuanInput):
    model_config = ConfigDict(title="HunyuanTextToVideoInput")

    num_inference_steps: Steps = 30
    pro_mode: Annotated[
        bool,
        NoEffect("the request's own steps are used", granted=(False,)),
        Field(description="More steps."),
    ] = False
    enable_safety_checker: SafetyChecker = False


class HunyuanImageToVideoInput(_HunyuanInput):
    model_config = ConfigDict(title="HunyuanImageToVideoInput")

    image_url: FirstPictureUrl
    num_inference_steps: Steps = 50
    i2v_stability: Annotated[
        bool,
        NoEffect("the clip begins with the picture as the model has it", granted=(False,)),
        Field(description="Nearer to the picture, and with less motion."),
    ] = False


TEXT_TO_VIDEO = Shape(HunyuanTextToVideoInput, VideoOutput, clip_with_poster)
IMAGE_TO_VIDEO = Shape(HunyuanImageToVideoInput, VideoOutput, clip_with_poster)
