"""The world of the audio model: one pure voice that holds, glides or beeps.

An `Audio` is the ground truth of one recording. `sample_audio` draws one, `render` plays it, and
`UNSEEN` lists what training must never hear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

#: In Hz and samples: 5.12 s, 320 times the 256 samples that a latent stands for.
SAMPLE_RATE: Final = 16_000
SAMPLES: Final = 81_920
SECONDS: Final = SAMPLES / SAMPLE_RATE

#: In Hz. A glide goes half an octave to either side of its pitch.
PITCHES: Final = {"low": 150.0, "middle": 300.0, "high": 600.0}
#: Peak amplitudes, 1 being full scale.
LOUDNESSES: Final = {"quiet": 0.15, "normal": 0.4, "loud": 0.85}
#: How often the voice sounds.
BEEPS: Final = {"two beeps": 2, "three beeps": 3, "four beeps": 4}
MANNERS: Final = ("tone", "rising", "falling", "siren", *BEEPS)

GLIDE_OCTAVES: Final = 1.0
#: A siren's way up and down again, so many times in a second.
SIREN_HZ: Final = 0.6
#: Silence before and after, and how long a voice takes to come and go, in seconds.
_REST_S: Final = 0.08
_FADE_S: Final = 0.02
#: From one beep to the next, and how long each sounds, in seconds. However many there are, the
#: first ones are alike: a tiny model that has to move all of them to add one finds that out last.
_BEEP_TURN_S: Final = 1.2
_BEEP_S: Final = 0.66
#: What a prompt leaves open: the loudness up to this factor, and the phase by so many radians to
#: either side. Of a voice at any phase nothing is left in the mean, so that a tiny model finds out
#: last when to be silent and where to glide.
_LOUDNESS_STRAY: Final = 1.1
_PHASE_STRAY: Final = 0.7


@dataclass(frozen=True)
class Audio:
    """`amplitude` is the peak of 1, `phase` in radians."""

    pitch: str
    manner: str
    loudness: str
    amplitude: float
    phase: float


#: One in eight: every pitch and loudness and all but one manner are in some of them and in most of
#: the others, but these meetings are never heard in training. "a falling sweep" would be one more:
#: a prompt that names nothing but a manner has to be learnt, or that manner is.
UNSEEN: Final = frozenset(
    (pitch, manner, loudness)
    for i, pitch in enumerate(PITCHES)
    for j, manner in enumerate(MANNERS)
    for k, loudness in enumerate(LOUDNESSES)
    if (2 * i + j + 3 * k) % 7 == 0 and (pitch, loudness) != ("middle", "normal")
)


def is_held_out(audio: Audio) -> bool:
    """Whether the recording belongs to the test split."""
    return (audio.pitch, audio.manner, audio.loudness) in UNSEEN


def sample_audio(rng: np.random.Generator, *, held_out: bool = False) -> Audio:
    """A random recording of the wanted split."""
    while True:
        loudness = str(rng.choice(list(LOUDNESSES), p=[0.25, 0.5, 0.25]))
        stray = float(rng.uniform(-1.0, 1.0))
        audio = Audio(
            str(rng.choice(list(PITCHES))),
            MANNERS[rng.integers(len(MANNERS))],
            loudness,
            LOUDNESSES[loudness] * _LOUDNESS_STRAY**stray,
            float(rng.uniform(-_PHASE_STRAY, _PHASE_STRAY)),
        )
        if is_held_out(audio) == held_out:
            return audio


def render(audio: Audio) -> np.ndarray:
    """The recording as float32 [SAMPLES], -1 to 1."""
    times = np.arange(SAMPLES) / SAMPLE_RATE
    hertz = PITCHES[audio.pitch] * 2.0 ** (GLIDE_OCTAVES / 2 * _bend(audio.manner, times))
    turns = np.cumsum(hertz) / SAMPLE_RATE
    wave = np.sin(2.0 * math.pi * turns + audio.phase)
    return (audio.amplitude * _envelope(audio.manner, times) * wave).astype(np.float32)


def _bend(manner: str, times: np.ndarray) -> np.ndarray:
    """How far the pitch is bent at each time: from -1, half a glide down, to 1."""
    part = np.clip((times - _REST_S) / (SECONDS - 2 * _REST_S), 0.0, 1.0)
    if manner == "rising":
        return 2.0 * part - 1.0
    if manner == "falling":
        return 1.0 - 2.0 * part
    if manner == "siren":
        return -np.cos(2.0 * math.pi * SIREN_HZ * (times - _REST_S))
    return np.zeros_like(times)


def _envelope(manner: str, times: np.ndarray) -> np.ndarray:
    """How loud the voice is at each time: 0 to 1."""
    beeps = BEEPS.get(manner, 1)
    length = SECONDS - 2 * _REST_S if beeps == 1 else _BEEP_S
    starts = _REST_S + _BEEP_TURN_S * np.arange(beeps)[:, None]
    since, left = times - starts, starts + length - times
    return np.clip(np.minimum(since, left) / _FADE_S, 0.0, 1.0).max(axis=0)
