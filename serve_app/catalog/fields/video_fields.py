"""Fields that the inputs of several models of clips share, as fal's clients send them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.catalog.effects import NoEffect
from serve_app.catalog.fields import (
    MOST_PROMPT,
    PictureUrl,
    SafetyChecker,
    Seed,
    SyncMode,
)
from serve_app.catalog.seeds import Seeds

MOST_FRAMES, MOST_FPS = 1000, 120

ClipPrompt = Annotated[str, Field(max_length=MOST_PROMPT, description="What the clip shows.")]
NegativeClipPrompt = Annotated[
    str, Field(max_length=MOST_PROMPT, description="What the clip should not show.")
]
Frames = Annotated[int, Field(ge=1, le=MOST_FRAMES, description="Frames of the clip.")]
FramesPerSecond = Annotated[
    float,
    Field(ge=0.1, le=MOST_FPS, allow_inf_nan=False, description="Frames a second of the clip."),
]
Shift = Annotated[
    float,
    Field(ge=0.1, le=100, description="More of it spends more of the steps on much noise."),
]
VideoQuality = Annotated[
    Literal["low", "medium", "high", "maximum"],
    Field(description="Of the file: the higher, the more bytes."),
]
VideoWriteMode = Annotated[
    Literal["fast", "balanced", "small"],
    Field(description="Of the file: written sooner, or in fewer bytes."),
]
ClipFormat = Annotated[
    Literal["mp4", "webm", "gif"],
    Field(description="File format of the clip: H.264 as MP4, VP9 as WebM, or GIF."),
]
LastPictureUrl = Annotated[
    PictureUrl | None,
    Field(description="The frame to end with: an http(s) URL, or a data URI."),
]
FirstPictureUrl = Annotated[
    PictureUrl, Field(description="The frame to begin with: an http(s) URL, or a data URI.")
]
Interpolator = Annotated[
    Literal["none", "film", "rife"],
    NoEffect("no frames are added between those that the model makes", granted=("none",)),
    Field(description="What adds frames in between."),
]
InterpolatedFrames = Annotated[
    int,
    NoEffect("no frames are added between those that the model makes", granted=(0,)),
    Field(ge=0, le=4, description="Frames to add between each two."),
]
AdjustFps = Annotated[
    bool,
    NoEffect("no frames are added between those that the model makes"),
    Field(description="Count the frames in between in the pace."),
]
ExpandClipPrompt = Annotated[
    bool,
    NoEffect("prompts are used as they are sent", granted=(False,)),
    Field(description="Have the prompt rewritten."),
]
OutputSafetyChecker = Annotated[
    bool,
    NoEffect("there is no safety checker here", granted=(False,)),
    Field(description="Look for indecent frames."),
]
ClipAcceleration = Annotated[
    Literal["none", "regular"],
    NoEffect("every request runs at full speed here", granted=("none",)),
    Field(description="Quicker, at the cost of quality."),
]


class ClipInput(BaseModel):
    """What every input of clips has."""

    model_config = ConfigDict(extra="ignore", validate_default=True)

    prompt: ClipPrompt
    seed: Seed = None
    seeds: Seeds = None
    output_format: ClipFormat = "mp4"
    video_quality: VideoQuality = "high"
    video_write_mode: VideoWriteMode = "balanced"
    sync_mode: SyncMode = False


class CheckedClipInput(ClipInput):
    """With the fields of fal's that have no effect here."""

    enable_safety_checker: SafetyChecker = False
    enable_prompt_expansion: ExpandClipPrompt = False
