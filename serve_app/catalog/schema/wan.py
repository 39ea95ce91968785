"""Wan 2.1 and 2.2 inputs: text-to-video and image-to-video."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from serve_app.catalog.fields.field_notes import NoEffect
from serve_app.catalog.fields.fields import Guidance, Steps
from serve_app.catalog.fields.outputs import VideoOutput, video_with_poster
from serve_app.catalog.fields.pydantic_schema import Shape
from serve_app.catalog.fields.video_fields import (
    AdjustFps,
    CheckedClipInput,
    FirstImageUrl,
    Frames,
    FramesPerSecond,
    InterpolatedFrames,
    Interpolator,
    LastImageUrl,
    NegativeVideoPrompt,
    OutputSafetyChecker,
    Shift,
    VideoAcceleration,
)

UNWANTED = (
    "bright colors, overexposed, static, blurred details, subtitles, style, artwork, painting, "
    "picture, still, overall gray, worst quality, low quality, JPEG compression residue, ugly, "
    "incomplete, extra fingers, poorly drawn hands, poorly drawn faces, deformed, disfigured, "
    "malformed limbs, fused fingers, still picture, cluttered background, three legs, many people "
    "in the background, walking backwards"
)
"""Negative prompt of fal's Wan 2.1 endpoints, which is also Wan's own default."""

Turbo = Annotated[
    bool,
    NoEffect("the request's own steps are used", granted=(False,)),
    Field(description="Use few steps."),
]
RatioOfText = Annotated[
    Literal["16:9", "9:16", "1:1"], Field(description="Aspect ratio of the video.")
]
RatioOfImage = Annotated[
    Literal["auto", "16:9", "9:16", "1:1"],
    Field(description="Aspect ratio of the video; `auto` uses the input image's."),
]
Resolution = Annotated[
    Literal["480p", "580p", "720p"], Field(description="Resolution of the video.")
]
LargerResolution = Annotated[Literal["580p", "720p"], Field(description="Resolution of the video.")]


class _Wan21Input(CheckedClipInput):
    negative_prompt: NegativeVideoPrompt = UNWANTED
    num_frames: Frames = 81
    frames_per_second: FramesPerSecond = 16
    num_inference_steps: Steps = 30


class WanTextToVideoInput(_Wan21Input):
    model_config = ConfigDict(title="WanTextToVideoInput")

    resolution: Resolution = "720p"
    aspect_ratio: Annotated[
        Literal["16:9", "9:16"], Field(description="Aspect ratio of the video.")
    ] = "16:9"
    turbo_mode: Turbo = False


class WanImageToVideoInput(_Wan21Input):
    model_config = ConfigDict(title="WanImageToVideoInput")

    image_url: FirstImageUrl
    resolution: Annotated[
        Literal["480p", "720p"], Field(description="Resolution of the video.")
    ] = "720p"
    aspect_ratio: RatioOfImage = "auto"
    guide_scale: Guidance = 5.0
    shift: Shift = 5.0
    acceleration: VideoAcceleration = "regular"


class _Wan22Input(CheckedClipInput):
    negative_prompt: NegativeVideoPrompt = ""
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

    image_url: FirstImageUrl
    aspect_ratio: RatioOfImage = "auto"


class _Wan22LargeInput(_Wan22Input):
    """Model with two denoisers, one for high and one for low noise."""

    frames_per_second: FramesPerSecond = 16
    num_inference_steps: Steps = 27
    resolution: Resolution = "720p"
    num_interpolated_frames: InterpolatedFrames = 1
    acceleration: VideoAcceleration = "regular"


class Wan22LargeTextToVideoInput(_Wan22LargeInput):
    model_config = ConfigDict(title="Wan22LargeTextToVideoInput")

    aspect_ratio: RatioOfText = "16:9"
    guidance_scale_2: Annotated[Guidance, Field(description="Guidance scale at low noise.")] = 4.0


class Wan22LargeImageToVideoInput(_Wan22LargeInput):
    model_config = ConfigDict(title="Wan22LargeImageToVideoInput")

    image_url: FirstImageUrl
    end_image_url: LastImageUrl = None
    aspect_ratio: RatioOfImage = "auto"
    guidance_scale_2: Annotated[Guidance, Field(description="Guidance scale at low noise.")] = 3.5


class _Wan22TurboInput(CheckedClipInput):
    """Model with adapters for few steps, whose number the endpoint fixes."""

    resolution: Resolution = "720p"
    enable_output_safety_checker: OutputSafetyChecker = False
    acceleration: VideoAcceleration = "regular"


class Wan22TurboTextToVideoInput(_Wan22TurboInput):
    model_config = ConfigDict(title="Wan22TurboTextToVideoInput")

    aspect_ratio: RatioOfText = "16:9"


class Wan22TurboImageToVideoInput(_Wan22TurboInput):
    model_config = ConfigDict(title="Wan22TurboImageToVideoInput")

    image_url: FirstImageUrl
    end_image_url: LastImageUrl = None
    aspect_ratio: RatioOfImage = "auto"


TEXT_TO_VIDEO = Shape(WanTextToVideoInput, VideoOutput, video_with_poster)
IMAGE_TO_VIDEO = Shape(WanImageToVideoInput, VideoOutput, video_with_poster)
SMALL_TEXT_TO_VIDEO = Shape(Wan22SmallTextToVideoInput, VideoOutput, video_with_poster)
SMALL_IMAGE_TO_VIDEO = Shape(Wan22SmallImageToVideoInput, VideoOutput, video_with_poster)
LARGE_TEXT_TO_VIDEO = Shape(Wan22LargeTextToVideoInput, VideoOutput, video_with_poster)
LARGE_IMAGE_TO_VIDEO = Shape(Wan22LargeImageToVideoInput, VideoOutput, video_with_poster)
TURBO_TEXT_TO_VIDEO = Shape(Wan22TurboTextToVideoInput, VideoOutput, video_with_poster)
TURBO_IMAGE_TO_VIDEO = Shape(Wan22TurboImageToVideoInput, VideoOutput, video_with_poster)
