"""Input fields that several audio models share, as fal's clients send them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.catalog.fields.fields import MAX_PROMPT, Seed, Seeds, SyncMode

MAX_SECONDS = 600.0

AudioPrompt = Annotated[str, Field(max_length=MAX_PROMPT, description="Description of the audio.")]
Seconds = Annotated[
    float,
    Field(ge=0.01, le=MAX_SECONDS, allow_inf_nan=False, description="Duration in seconds."),
]
StartSecond = Annotated[
    float,
    Field(
        ge=0,
        le=MAX_SECONDS,
        allow_inf_nan=False,
        description="Start of the audio within what the model makes, in seconds.",
    ),
]
AudioFormat = Annotated[
    Literal["wav", "flac", "mp3", "ogg"],
    Field(description="File format: WAV or FLAC of 16 bits, MP3, or Opus as Ogg."),
]


class AudioInput(BaseModel):
    """Fields of every audio input."""

    model_config = ConfigDict(extra="ignore", validate_default=True)

    seed: Seed = None
    seeds: Seeds = None
    output_format: AudioFormat = "wav"
    sync_mode: SyncMode = False
