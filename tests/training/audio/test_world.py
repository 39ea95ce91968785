"""The sound world: its split, its sounds and its wording."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.sound.phrasing import plain_prompt, sample_prompt
from training.sound.world import (
    LOUDNESSES,
    MANNERS,
    PITCHES,
    SAMPLE_RATE,
    SAMPLES,
    UNSEEN,
    Sound,
    is_held_out,
    render,
    sample_sound,
)

seeds = st.integers(0, 2**32 - 1)


def test_all_but_one_manner_is_heard_in_training_and_held_out() -> None:
    every = {(p, m, v) for p in PITCHES for m in MANNERS for v in LOUDNESSES}
    for some in (UNSEEN, every - UNSEEN):
        assert {pitch for pitch, _, _ in some} == set(PITCHES)
        assert {manner for _, manner, _ in some} >= set(MANNERS) - {"falling"}
        assert {loudness for _, _, loudness in some} == set(LOUDNESSES)


@given(seed=seeds, held_out=st.booleans())
def test_a_sound_is_of_the_wanted_split_and_within_full_scale(seed: int, held_out: bool) -> None:
    sound = sample_sound(np.random.default_rng(seed), held_out=held_out)
    assert is_held_out(sound) == held_out
    wave = render(sound)
    assert wave.shape == (SAMPLES,)
    assert np.abs(wave).max() <= sound.amplitude <= 1.0


def test_a_tone_is_at_its_pitch_and_begins_and_ends_in_silence() -> None:
    wave = render(Sound("middle", "tone", "normal", 0.4, 0.0))
    spectrum = np.abs(np.fft.rfft(wave))
    assert abs(spectrum.argmax() * SAMPLE_RATE / SAMPLES - PITCHES["middle"]) < 1.0
    assert not wave[:100].any()
    assert not wave[-100:].any()


def test_no_sound_leaves_the_autoencoders_band() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        powers = np.square(np.abs(np.fft.rfft(render(sample_sound(rng)))))
        low = np.fft.rfftfreq(SAMPLES, 1 / SAMPLE_RATE) < 1_000
        assert powers[low].sum() > 0.999 * powers.sum()


def test_regular_wording_names_what_is_not_usual() -> None:
    assert plain_prompt(Sound("high", "three beeps", "loud", 0.8, 0.0)) == "three loud high beeps"
    assert plain_prompt(Sound("middle", "rising", "normal", 0.4, math.pi)) == "a rising sweep"


@given(seed=seeds)
def test_free_wording_leaves_no_gap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prompt = sample_prompt(rng, sample_sound(rng), noise=1.0)
    assert "  " not in prompt
    assert "{" not in prompt
