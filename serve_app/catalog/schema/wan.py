"""Wan 2.1 and 2.2: clips from text, and from text and a picture."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from serve_app.catalog.clip_fields import (
    AdjustFps,
    CheckedClipInput,
    ClipAcceleration,
    FirstPictureUrl,
    Frames,
    FramesPerSecond,
    InterpolatedFrames,
    Interpolator,
    LastPictureUrl,
    NegativeClipPrompt,
    OutputSafetyChecker,
    Shift,
)
from serve_app.catalog.effects import NoEffect
from serve_app.catalog.fields import Guidance, Steps
from serve_app.catalog.outputs import VideoOutput
from serve_app.catalog.produced import clip_with_poster
from serve_app.catalog.pydantic_schema import Shape

UNWANTED = (
    "bright colors, overexposed, static, blurred details, subtitles, style, artwork, painting, "
    "picture, still, overall gray, worst quality, low quality, JPEG compression residue, ugly, "
    "incomplete, extra fingers, poorly drawn hands, poorly drawn faces, deformed, disfigured, "
    "malformed limbs, fused fingers, still picture, cluttered background, three legs, many people "
    "in the background, walking backwards"
)
"""The negative prompt of fal's Wan 2.1 endpoints, which is Wan's own."""

Turbo = Annotated[
    bool,
    NoEffect("the request's own steps are used", granted=(False,)),
    Field(description="Few steps."),
]
RatioOfText = Annotated[
    Literal["16:9", "9:16", "1:1"], Field(description="Width and height of the clip.")
]
RatioOfPicture = Annotated[
    Literal["auto", "16:9", "9:16", "1:1"],
    Field(description="Width and height of the clip; `auto`: those of the picture."),
]
Resolution = Annotated[Literal["480p", "580p", "720p"], Field(description="How large it is.")]
LargerResolution = Annotated[Literal["580p", "720p"], Field(description="How large it is.")]


class _Wan21Input(CheckedClipInput):
    negative_prompt: NegativeClipPrompt = UNWANTED
    num_frames: Frames = 81
    frames_per_second: FramesPerSecond = 16
    num_inference_steps: Steps = 30


class WanTextToVideoInput(_Wan21Input):
    model_config = ConfigDict(title="WanTextToVideoInput")

    resolution: Resolution = "720p"
    aspect_ratio: Annotated[
        Literal["16:9", "9:16"], Field(description="Width and height of the clip.")
    ] = "16:9"
    turbo_mode: Turbo = False


class WanImageToVideoInput(_Wan21Input):
    model_config = ConfigDict(title="WanImageToVideoInput")

    image_url: FirstPictureUrl
    resolution: Annotated[Literal["480p", "720p"], Field(description="How large it is.")] = "720p"
    aspect_ratio: RatioOfPicture = "auto"
    guide_scale: Guidance = 5.0
    shift: Shift = 5.0
    acceleration: ClipAcceleration = "regular"


class _Wan22Input(CheckedClipInput):
    negative_prompt: NegativeClipPrompt = ""
    num_frames: Frames = 81
    guidance_scale: Guidance = 3.5
    shift: Shift = 5.0
    enable_output_safety_checker: OutputSafetyChecker = False
    interpolator_model: Interpolator = "film"
    adjust_fps_for_interpolation: AdjustFps = True


class _Wan22SmallInput(_Wan22Input):
    frames_per_second: FramesPerSecond = 24
    num_inference_steps: Steps = 40
    resolution: LargerResolution = "720p"
    num_interpolated_frames: InterpolatedFrames = 0


class Wan22SmallTextToVideoInput(_Wan22SmallInput):
    model_config = ConfigDict(title="Wan22SmallTextToVideoInput")

    aspect_ratio: RatioOfText = "16:9"


class Wan22SmallImageToVideoInput(_Wan22SmallInput):
    model_config = ConfigDict(title="Wan22SmallImageToVideoInput")

    image_url: FirstPictureUrl
    aspect_ratio: RatioOfPicture = "auto"


class _Wan22LargeInput(_Wan22Input):
    """Two denoisers, one for much noise and one for little."""

    frames_per_second: FramesPerSecond = 16
    num_inference_steps: Steps = 27
    resolution: Resolution = "720p"
    num_interpolated_frames: InterpolatedFrames = 1
    acceleration: ClipAcceleration = "regular"


class Wan22LargeTextToVideoInput(_Wan22LargeInput):
    model_config = ConfigDict(title="Wan22LargeTextToVideoInput")

    aspect_ratio: RatioOfText = "16:9"
    guidance_scale_2: Annotated[Guidance, Field(description="The same at little noise.")] = 4.0


class Wan22LargeImageToVideoInput(_Wan22LargeInput):
    model_config = ConfigDict(title="Wan22LargeImageToVideoInput")

    image_url: FirstPictureUrl
    end_image_url: LastPictureUrl = None
    aspect_ratio: RatioOfPicture = "auto"
    guidance_scale_2: Annotated[Guidance, Field(description="The same at little noise.")] = 3.5


TEXT_TO_VIDEO = Shape(WanTextToVideoInput, VideoOutput, clip_with_poster)
IMAGE_TO_VIDEO = Shape(WanImageToVideoInput, VideoOutput, clip_with_poster)
SMALL_TEXT_TO_VIDEO = Shape(Wan22SmallTextToVideoInput, VideoOutput, clip_with_poster)
SMALL_IMAGE_TO_VIDEO = Shape(Wan22SmallImageToVideoInput, VideoOutput, clip_with_poster)
LARGE_TEXT_TO_VIDEO = Shape(Wan22LargeTextToVideoInput, VideoOutput, clip_with_poster)
LARGE_IMAGE_TO_VIDEO = Shape(Wan22LargeImageToVideoInput, VideoOutput, clip_with_poster)
