"""Input fields that several video models share, as fal's clients send them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.catalog.fields.field_notes import NoEffect
from serve_app.catalog.fields.fields import (
    MAX_PROMPT,
    ImageUrl,
    SafetyChecker,
    Seed,
    Seeds,
    SyncMode,
)

MAX_FRAMES, MAX_FPS = 1000, 120

VideoPrompt = Annotated[str, Field(max_length=MAX_PROMPT, description="Description of the video.")]
NegativeVideoPrompt = Annotated[
    str, Field(max_length=MAX_PROMPT, description="Description of what the video should not show.")
]
Frames = Annotated[int, Field(ge=1, le=MAX_FRAMES, description="Number of frames of the video.")]
FramesPerSecond = Annotated[
    float,
    Field(ge=0.1, le=MAX_FPS, allow_inf_nan=False, description="Frames per second of the video."),
]
Shift = Annotated[
    float,
    Field(ge=0.1, le=100, description="Shift of the noise schedule: more steps at high noise."),
]
VideoQuality = Annotated[
    Literal["low", "medium", "high", "maximum"],
    Field(description="Quality of the video file: higher quality makes a larger file."),
]
VideoWriteMode = Annotated[
    Literal["fast", "balanced", "small"],
    Field(description="Encoding of the video file: faster, or a smaller file."),
]
VideoFormat = Annotated[
    Literal["mp4", "webm", "gif"],
    Field(description="File format of the video: H.264 as MP4, VP9 as WebM, or GIF."),
]
LastImageUrl = Annotated[
    ImageUrl | None,
    Field(description="Last frame of the video: an http(s) URL, or a data URI."),
]
FirstImageUrl = Annotated[
    ImageUrl, Field(description="First frame of the video: an http(s) URL, or a data URI.")
]
Interpolator = Annotated[
    Literal["none", "film", "rife"],
    NoEffect("frames are not interpolated here", granted=("none",)),
    Field(description="Model for frame interpolation."),
]
InterpolatedFrames = Annotated[
    int,
    NoEffect("frames are not interpolated here", granted=(0,)),
    Field(ge=0, le=4, description="Frames to add between each two frames."),
]
AdjustFps = Annotated[
    bool,
    NoEffect("frames are not interpolated here"),
    Field(description="Raise the frame rate by the interpolated frames."),
]
ExpandVideoPrompt = Annotated[
    bool,
    NoEffect("prompts are used as they are sent", granted=(False,)),
    Field(description="Rewrite the prompt before it is used."),
]
OutputSafetyChecker = Annotated[
    bool,
    NoEffect("the operator decides what is checked", granted=(False,)),
    Field(description="Check the frames of the video for unsafe content."),
]
VideoAcceleration = Annotated[
    Literal["none", "regular"],
    NoEffect("this endpoint has no step cache", granted=("none",)),
    Field(description="Generate faster, with less quality."),
]


class ClipInput(BaseModel):
    """Fields of every video input."""

    model_config = ConfigDict(extra="ignore", validate_default=True)

    prompt: VideoPrompt
    seed: Seed = None
    seeds: Seeds = None
    output_format: VideoFormat = "mp4"
    video_quality: VideoQuality = "high"
    video_write_mode: VideoWriteMode = "balanced"
    sync_mode: SyncMode = False


class CheckedClipInput(ClipInput):
    """Video input with fields of fal's that have no effect here."""

    enable_safety_checker: SafetyChecker = False
    enable_prompt_expansion: ExpandVideoPrompt = False
