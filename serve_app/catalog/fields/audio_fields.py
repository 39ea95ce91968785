"""Fields that the inputs of several models of sound share, as fal's clients send them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.catalog.fields import MOST_PROMPT, Seed, SyncMode
from serve_app.catalog.seeds import Seeds

MOST_SECONDS = 600.0

SoundPrompt = Annotated[str, Field(max_length=MOST_PROMPT, description="What is to be heard.")]
Seconds = Annotated[
    float,
    Field(
        ge=0.01, le=MOST_SECONDS, allow_inf_nan=False, description="How long it lasts, in seconds."
    ),
]
StartSecond = Annotated[
    float,
    Field(
        ge=0,
        le=MOST_SECONDS,
        allow_inf_nan=False,
        description="From which second on of what the model makes.",
    ),
]
SoundFormat = Annotated[
    Literal["wav", "flac", "mp3", "ogg"],
    Field(description="File format: WAV or FLAC of 16 bits, MP3, or Opus as Ogg."),
]


class SoundInput(BaseModel):
    """What every input of sounds has."""

    model_config = ConfigDict(extra="ignore", validate_default=True)

    seed: Seed = None
    seeds: Seeds = None
    output_format: SoundFormat = "wav"
    sync_mode: SyncMode = False
