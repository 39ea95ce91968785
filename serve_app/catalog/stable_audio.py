"""Stable Audio: sounds and loops from text."""

from __future__ import annotations

from pydantic import ConfigDict

from serve_app.catalog.fields import Guidance, Steps
from serve_app.catalog.outputs import AudioFileOutput, AudioOutput
from serve_app.catalog.produced import sound_with_waveform
from serve_app.catalog.pydantic_schema import Shape
from serve_app.catalog.sound_fields import Seconds, SoundInput, SoundPrompt, StartSecond


class StableAudioInput(SoundInput):
    model_config = ConfigDict(title="StableAudioInput")

    prompt: SoundPrompt
    seconds_start: StartSecond = 0.0
    seconds_total: Seconds = 30.0
    steps: Steps = 100


class StableAudio25Input(SoundInput):
    model_config = ConfigDict(title="StableAudio25Input")

    prompt: SoundPrompt
    seconds_total: Seconds = 190.0
    num_inference_steps: Steps = 8
    guidance_scale: Guidance = 1.0


TEXT_TO_AUDIO = Shape(StableAudioInput, AudioFileOutput, sound_with_waveform)
LONGER_TEXT_TO_AUDIO = Shape(StableAudio25Input, AudioOutput, sound_with_waveform)
