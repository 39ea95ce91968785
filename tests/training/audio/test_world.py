"""The audio world: its split, its recordings and its wording."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.audio.phrasing import plain_prompt, sample_prompt
from training.audio.world import (
    LOUDNESSES,
    MANNERS,
    PITCHES,
    SAMPLE_RATE,
    SAMPLES,
    UNSEEN,
    Audio,
    is_held_out,
    render,
    sample_audio,
)

seeds = st.integers(0, 2**32 - 1)


def test_all_but_one_manner_is_heard_in_training_and_held_out() -> None:
    every = {(p, m, v) for p in PITCHES for m in MANNERS for v in LOUDNESSES}
    for some in (UNSEEN, every - UNSEEN):
        assert {pitch for pitch, _, _ in some} == set(PITCHES)
        assert {manner for _, manner, _ in some} >= set(MANNERS) - {"falling"}
        assert {loudness for _, _, loudness in some} == set(LOUDNESSES)


@given(seed=seeds, held_out=st.booleans())
def test_an_audio_file_is_of_the_wanted_split_and_within_full_scale(
    seed: int, held_out: bool
) -> None:
    audio = sample_audio(np.random.default_rng(seed), held_out=held_out)
    assert is_held_out(audio) == held_out
    wave = render(audio)
    assert wave.shape == (SAMPLES,)
    assert np.abs(wave).max() <= audio.amplitude <= 1.0


def test_a_tone_is_at_its_pitch_and_begins_and_ends_in_silence() -> None:
    wave = render(Audio("middle", "tone", "normal", 0.4, 0.0))
    spectrum = np.abs(np.fft.rfft(wave))
    assert abs(spectrum.argmax() * SAMPLE_RATE / SAMPLES - PITCHES["middle"]) < 1.0
    assert not wave[:100].any()
    assert not wave[-100:].any()


def test_no_audio_leaves_the_autoencoders_band() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        powers = np.square(np.abs(np.fft.rfft(render(sample_audio(rng)))))
        low = np.fft.rfftfreq(SAMPLES, 1 / SAMPLE_RATE) < 1_000
        assert powers[low].sum() > 0.999 * powers.sum()


def test_regular_wording_names_what_is_not_usual() -> None:
    assert plain_prompt(Audio("high", "three beeps", "loud", 0.8, 0.0)) == "three loud high beeps"
    assert plain_prompt(Audio("middle", "rising", "normal", 0.4, math.pi)) == "a rising sweep"


@given(seed=seeds)
def test_free_wording_leaves_no_gap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prompt = sample_prompt(rng, sample_audio(rng), noise=1.0)
    assert "  " not in prompt
    assert "{" not in prompt
