"""The checker of audio is right on played audio and says so where something is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.audio.checker import UNKNOWN, hear, judge
from training.audio.world import (
    LOUDNESSES,
    MANNERS,
    PITCHES,
    SAMPLE_RATE,
    SAMPLES,
    Audio,
    render,
    sample_audio,
)


@pytest.mark.long
def test_it_is_right_on_played_audio_files_of_both_splits() -> None:
    rng = np.random.default_rng(1)
    audios = [sample_audio(rng, held_out=i % 2 == 0) for i in range(60)]
    assert all(judge(render(audio), SAMPLE_RATE, audio).everything for audio in audios)


@pytest.mark.long
@pytest.mark.parametrize("manner", MANNERS)
def test_every_other_manner_pitch_and_loudness_is_wrong(manner: str) -> None:
    audio = Audio("middle", manner, "normal", 0.4, 1.0)
    wave = render(audio)
    for field, choices in (("manner", MANNERS), ("pitch", PITCHES), ("loudness", LOUDNESSES)):
        right = [
            choice
            for choice in choices
            if getattr(judge(wave, SAMPLE_RATE, replace(audio, **{field: choice})), field)
        ]
        assert right == [getattr(audio, field)]


def test_a_little_noise_does_not_matter_and_noise_alone_is_no_audio_of_the_world() -> None:
    audio = Audio("high", "falling", "loud", 0.85, 1.0)
    noise = np.random.default_rng(1).normal(size=SAMPLES) * 0.05
    assert judge(render(audio) + noise, SAMPLE_RATE, audio).everything
    heard = hear(noise * 10, SAMPLE_RATE)
    assert (heard.pitch, heard.manner) == (UNKNOWN, UNKNOWN)


def test_silence_is_nothing() -> None:
    heard = hear(np.zeros(SAMPLES), SAMPLE_RATE)
    assert (heard.pitch, heard.manner, heard.loudness) == (UNKNOWN, UNKNOWN, UNKNOWN)


def test_a_voice_that_wanders_up_and_down_is_no_siren() -> None:
    rest, times = round(0.08 * SAMPLE_RATE), np.arange(SAMPLES) / SAMPLE_RATE
    once_up_and_down = 300.0 * 2.0 ** (0.5 - np.abs(2.0 * times / times[-1] - 1.0))
    wave = 0.4 * np.sin(2.0 * np.pi * np.cumsum(once_up_and_down) / SAMPLE_RATE)
    wave[:rest] = wave[-rest:] = 0.0
    heard = hear(wave, SAMPLE_RATE)
    assert (heard.pitch, heard.manner) == ("middle", UNKNOWN)
