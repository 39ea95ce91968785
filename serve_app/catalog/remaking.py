"""Clips made of clips, and sounds of sounds, by whatever model an entry names."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from serve_app.catalog.clip_fields import ClipInput, Frames, FramesPerSecond, NegativeClipPrompt
from serve_app.catalog.fields import FileUrl, Guidance, Size, Steps, Strength
from serve_app.catalog.outputs import AudioOutput, VideoOutput
from serve_app.catalog.produced import clip_with_poster, sound_with_waveform
from serve_app.catalog.pydantic_schema import Shape
from serve_app.catalog.sound_fields import Seconds, SoundInput, SoundPrompt

ClipUrl = Annotated[
    FileUrl,
    Field(description="The clip to begin with (MP4, WebM, GIF): an http(s) URL, or a data URI."),
]
SoundUrl = Annotated[
    FileUrl, Field(description="The sound to begin with: an http(s) URL, or a data URI.")
]


class VideoToVideoInput(ClipInput):
    model_config = ConfigDict(title="VideoToVideoInput")

    video_url: ClipUrl
    negative_prompt: NegativeClipPrompt = ""
    num_inference_steps: Steps = 30
    guidance_scale: Guidance = 5.0
    strength: Strength = 0.8
    num_frames: Frames | None = None
    frames_per_second: FramesPerSecond | None = None
    image_size: Size | None = None


class AudioToAudioInput(SoundInput):
    model_config = ConfigDict(title="AudioToAudioInput")

    audio_url: SoundUrl
    prompt: SoundPrompt
    num_inference_steps: Steps = 8
    guidance_scale: Guidance = 1.0
    strength: Strength = 0.8
    seconds_total: Seconds | None = None


VIDEO_TO_VIDEO = Shape(VideoToVideoInput, VideoOutput, clip_with_poster)
AUDIO_TO_AUDIO = Shape(AudioToAudioInput, AudioOutput, sound_with_waveform)
