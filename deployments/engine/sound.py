"""Samples to a sound's file. Never on the engine's thread: a minute takes tenths of a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.codec.codec import UnknownCodecError

from deployments.engine.sound_levels import Samples
from serve_app.domain.errors import Unsupported

OPUS_RATE = 48_000
"""Opus has a few rates of its own (RFC 6716, section 2), of which this one loses nothing."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """How files of one media type are written."""

    container: str
    codec: str
    form: str  # of its samples, as FFmpeg calls them
    bit_rate: int | None = None  # a second and channel; None: nothing is lost
    rates: tuple[int, ...] = ()  # samples a second that it can have; empty: any


_KINDS: Mapping[str, _Kind] = {
    "audio/wav": _Kind("wav", "pcm_s16le", "s16"),
    "audio/flac": _Kind("flac", "flac", "s16"),
    "audio/mpeg": _Kind(
        "mp3",
        "libmp3lame",
        "fltp",
        96_000,
        (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    ),
    "audio/ogg": _Kind("ogg", "libopus", "flt", 80_000, (OPUS_RATE,)),
}


def write_sound(
    path: Path,
    samples: Samples,
    rate: int,
    media_type: str,
    on_part: Callable[[int], None] = lambda _: None,
) -> None:
    """``rate``: samples a second. ``on_part`` is told how many samples are written, second by
    second; what it raises ends the writing. A rate that the type does not have is changed to the
    nearest above it. ``Unsupported`` where files of that type cannot be written."""
    kind = _KINDS.get(media_type)
    if kind is None:
        raise Unsupported(f"Sounds are not written as {media_type}.")
    layout = "mono" if len(samples) == 1 else "stereo"
    # Without `bitexact`, Ogg gets a random number.
    settings = {"fflags": "bitexact"}
    with av.open(str(path), "w", format=kind.container, options=settings) as container:
        try:
            stream = container.add_stream(kind.codec, rate=_rate(kind, rate))
        except UnknownCodecError:
            raise Unsupported(
                f"The FFmpeg of this machine was built without {kind.codec}, which writes "
                f"{media_type}. Ask for another output_format."
            ) from None
        if not isinstance(stream, AudioStream):
            raise TypeError(f"{kind.codec} is no codec of sound.")
        stream.layout = layout
        if kind.bit_rate is not None:
            stream.bit_rate = kind.bit_rate * len(samples)
        resampler = AudioResampler(kind.form, layout, stream.rate)
        for start in range(0, samples.shape[1], rate):
            part = samples[:, start : start + rate]
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(part), format="fltp", layout=layout
            )
            frame.sample_rate = rate
            frame.pts, frame.time_base = start, Fraction(1, rate)
            for converted in resampler.resample(frame):
                container.mux(stream.encode(converted))
            on_part(min(start + rate, samples.shape[1]))
        for converted in resampler.resample(None):
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))


def _rate(kind: _Kind, rate: int) -> int:
    if not kind.rates or rate in kind.rates:
        return rate
    return next((each for each in kind.rates if each > rate), kind.rates[-1])
