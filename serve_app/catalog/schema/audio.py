"""Stable Audio inputs: text-to-audio."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from serve_app.catalog.fields.audio_fields import AudioInput, AudioPrompt, Seconds, StartSecond
from serve_app.catalog.fields.field_notes import NoEffect
from serve_app.catalog.fields.fields import MAX_PROMPT, Guidance, Steps
from serve_app.catalog.fields.outputs import (
    AudioFileOutput,
    SongOutput,
    audio_with_waveform,
)
from serve_app.catalog.fields.pydantic_schema import Shape


class StableAudioInput(AudioInput):
    model_config = ConfigDict(title="StableAudioInput")

    prompt: AudioPrompt
    seconds_start: StartSecond = 0.0
    seconds_total: Seconds = 30.0
    steps: Steps = 100


TEXT_TO_AUDIO = Shape(StableAudioInput, AudioFileOutput, audio_with_waveform)


# ACE-Step: songs from tags and lyrics.

_OWN_GUIDANCE = NoEffect("the pipeline uses the guidance that its model was trained for")


class AceStepInput(AudioInput):
    model_config = ConfigDict(title="AceStepInput")

    tags: str = Field(max_length=MAX_PROMPT, description="Music styles, comma-separated.")
    lyrics: str = Field(
        default="",
        max_length=MAX_PROMPT,
        description="Lyrics, with [verse] and [chorus]; [inst] for an instrumental piece.",
    )
    duration: Seconds = 60.0
    number_of_steps: Steps = 27
    guidance_scale: Guidance = 15.0
    scheduler: Annotated[
        Literal["euler", "heun"],
        NoEffect("the model's own scheduler is used", granted=("euler",)),
        Field(description="Scheduler."),
    ] = "euler"
    guidance_type: Annotated[
        Literal["cfg", "apg", "cfg_star"], _OWN_GUIDANCE, Field(description="Kind of guidance.")
    ] = "apg"
    granularity_scale: Annotated[int, _OWN_GUIDANCE, Field(description="Of the guidance.")] = 10
    guidance_interval: Annotated[float, _OWN_GUIDANCE, Field(description="Of the guidance.")] = 0.5
    guidance_interval_decay: Annotated[
        float, _OWN_GUIDANCE, Field(description="Of the guidance.")
    ] = 0.0
    minimum_guidance_scale: Annotated[
        float, _OWN_GUIDANCE, Field(description="Of the guidance.")
    ] = 3.0
    tag_guidance_scale: Annotated[float, _OWN_GUIDANCE, Field(description="Of the guidance.")] = 5.0
    lyric_guidance_scale: Annotated[float, _OWN_GUIDANCE, Field(description="Of the guidance.")] = (
        1.5
    )


TEXT_TO_MUSIC = Shape(AceStepInput, SongOutput, audio_with_waveform, drafts=False)
