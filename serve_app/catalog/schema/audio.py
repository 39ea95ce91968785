"""ACE-Step: songs from tags and lyrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from serve_app.catalog.effects import NoEffect
from serve_app.catalog.fields import MOST_PROMPT, Guidance, Steps
from serve_app.catalog.outputs import SongOutput
from serve_app.catalog.produced import sound_with_waveform
from serve_app.catalog.pydantic_schema import Shape
from serve_app.catalog.sound_fields import Seconds, SoundInput

_OWN_GUIDANCE = NoEffect("the pipeline guides as its model was made to be guided")


class AceStepInput(SoundInput):
    model_config = ConfigDict(title="AceStepInput")

    tags: str = Field(max_length=MOST_PROMPT, description="Kinds of music, set apart by commas.")
    lyrics: str = Field(
        default="",
        max_length=MOST_PROMPT,
        description="What is sung, with [verse] and [chorus]; [inst] for a piece without words.",
    )
    duration: Seconds = 60.0
    number_of_steps: Steps = 27
    guidance_scale: Guidance = 15.0
    scheduler: Annotated[
        Literal["euler", "heun"],
        NoEffect("the model's own solver is used", granted=("euler",)),
        Field(description="Which solver."),
    ] = "euler"
    guidance_type: Annotated[
        Literal["cfg", "apg", "cfg_star"], _OWN_GUIDANCE, Field(description="How it is guided.")
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


TEXT_TO_MUSIC = Shape(AceStepInput, SongOutput, sound_with_waveform)
