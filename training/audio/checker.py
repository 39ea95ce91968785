"""Judges audio by its waveform alone: how it is pitched, what it does, how loud it is.

It knows the world's pitches and nothing of any model. Pitch is the strongest frequency of each
short piece, a glide how that changes, beeps how often the envelope comes and goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from training.audio.world import BEEPS, LOUDNESSES, PITCHES, SIREN_HZ, Audio

UNKNOWN: Final = "unknown"

#: Seconds of a piece, and from one to the next.
_PIECE_S: Final = 0.064
_HOP_S: Final = 0.008
#: A piece sounds that has this part of the loudest one's amplitude, and not less than this.
_SOUNDING: Final = 0.3
_SILENCE: Final = 0.02
#: Pauses and beeps shorter than this, in seconds, are none.
_LEAST_S: Final = 0.05
#: In octaves: a glide bends further than this, a held voice strays less than this.
_LEAST_GLIDE: Final = 0.6
_MOST_STRAY: Final = 0.2
#: A glide's pitch goes with a straight line, and a siren's with a wave, as closely as this.
_LEAST_FIT: Final = 0.8
#: A voice has this part of its power within a third of an octave of its pitch; noise has not.
_LEAST_PURITY: Final = 0.7


@dataclass(frozen=True)
class Hearing:
    """What a recording is; each may be `UNKNOWN`."""

    pitch: str
    manner: str
    loudness: str


@dataclass(frozen=True)
class Verdict:
    """Which of the things asked for the audio has."""

    pitch: bool
    manner: bool
    loudness: bool

    @property
    def everything(self) -> bool:
        return self.pitch and self.manner and self.loudness


def judge(wave: np.ndarray, rate: int, audio: Audio) -> Verdict:
    """Whether the waveform, float [samples], -1 to 1, is the audio that was asked for."""
    heard = hear(wave, rate)
    return Verdict(
        heard.pitch == audio.pitch,
        heard.manner == audio.manner,
        heard.loudness == audio.loudness,
    )


def hear(wave: np.ndarray, rate: int) -> Hearing:
    """What the waveform, float [samples], -1 to 1, is."""
    pieces = _pieces(wave, rate)
    amplitudes = np.sqrt(2.0 * np.mean(np.square(pieces), axis=1))
    sounding = amplitudes > max(_SILENCE, _SOUNDING * amplitudes.max())
    runs = _runs(sounding)
    if not runs:
        return Hearing(UNKNOWN, UNKNOWN, UNKNOWN)
    loudness = _nearest(float(np.median(amplitudes[sounding])), LOUDNESSES)
    pitches, purity = _pitches(pieces[sounding], rate)
    if purity < _LEAST_PURITY:
        return Hearing(UNKNOWN, UNKNOWN, loudness)
    octaves = np.log2(pitches)
    return Hearing(
        _nearest(2.0 ** ((octaves.min() + octaves.max()) / 2), PITCHES),
        _manner(octaves, len(runs)),
        loudness,
    )


def _pieces(wave: np.ndarray, rate: int) -> np.ndarray:
    """Overlapping pieces of the waveform: [N, samples of a piece]."""
    windows = np.lib.stride_tricks.sliding_window_view(wave, round(_PIECE_S * rate))
    return windows[:: round(_HOP_S * rate)].astype(np.float64)


def _runs(sounding: np.ndarray) -> list[tuple[int, int]]:
    """Where it sounds without a pause: pieces from and to, short ones left out and joined."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], sounding.astype(int), [0]])))
    least = round(_LEAST_S / _HOP_S)
    runs: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if runs and start - runs[-1][1] < least // 2:
            runs[-1] = runs[-1][0], end
        else:
            runs.append((start, end))
    return [(start, end) for start, end in runs if end - start >= least]


def _pitches(pieces: np.ndarray, rate: int) -> tuple[np.ndarray, float]:
    """Each piece's strongest frequency in Hz, smoothed, and the part of all power near it."""
    size = 4 * pieces.shape[1]
    powers = np.square(np.abs(np.fft.rfft(pieces * np.hanning(pieces.shape[1]), size)))
    hertz = np.fft.rfftfreq(size, 1 / rate)
    powers[:, hertz < 50] = 0.0
    strongest = hertz[powers.argmax(axis=1)]
    near = np.abs(np.log2(np.maximum(hertz, 1.0) / strongest[:, None])) < 1 / 3
    purity = float((powers * near).sum() / max(powers.sum(), 1e-12))
    smooth = np.lib.stride_tricks.sliding_window_view(np.pad(strongest, 3, mode="edge"), 7)
    return np.median(smooth, axis=1), purity


def _manner(octaves: np.ndarray, runs: int) -> str:
    if np.ptp(octaves) >= _LEAST_GLIDE:
        return _glide(octaves) if runs == 1 else UNKNOWN
    if np.ptp(octaves) > _MOST_STRAY:
        return UNKNOWN
    names = {1: "tone"} | {count: name for name, count in BEEPS.items()}
    return names.get(runs, UNKNOWN)


def _glide(octaves: np.ndarray) -> str:
    """Which way the pitch goes: a siren comes and goes as sirens do, and what wanders is none."""
    line = np.linspace(-1.0, 1.0, len(octaves))
    fit = np.corrcoef(line, octaves)[0, 1]
    if abs(fit) >= _LEAST_FIT:
        return "rising" if fit > 0 else "falling"
    turns = 2.0 * np.pi * SIREN_HZ * _HOP_S * np.arange(len(octaves))
    wail = np.stack([np.cos(turns), np.sin(turns), np.ones_like(turns)], axis=1)
    fitted = wail @ np.linalg.lstsq(wail, octaves, rcond=None)[0]
    return "siren" if np.corrcoef(fitted, octaves)[0, 1] >= _LEAST_FIT else UNKNOWN


def _nearest(value: float, choices: dict[str, float]) -> str:
    """The choice whose value is nearest as a factor, or `UNKNOWN` beyond half way to the next."""
    distances = {name: abs(np.log2(value / choice)) for name, choice in choices.items()}
    name = min(distances, key=lambda candidate: distances[candidate])
    return name if distances[name] < 0.75 else UNKNOWN
