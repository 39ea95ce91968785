"""Reading and writing of audio files.

Never on the engine's thread: writing a minute takes tenths of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.codec.codec import UnknownCodecError
from av.container import InputContainer, OutputContainer
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from deployments.engine.media.container import InputMedia, is_isobmff, is_matroska
from deployments.engine.media.xmp import add_xmp
from serve_app.domain.errors import PipelineFailed, Unsupported
from serve_app.domain.media.marking import TAG, TRAINED_ALGORITHMIC_MEDIA, XMP

Samples = NDArray[np.float32]  # [channels, samples], -1 to 1

CEILING = 10 ** (-1 / 20)
"""Greatest sample value of delivered audio. EBU R 128 allows a peak of -1 dB of full scale, because
the signal between the samples, and what lossy codecs add, go slightly beyond the samples."""


def limit_peak(audio: torch.Tensor, count: int) -> Samples:
    """Convert to one or two channels of ``count`` samples, padded with silence.

    ``audio``: [channels, samples] or [samples], on any device and of any float type. Audio that is
    too loud is made quieter as a whole, so that it is not clipped; quiet audio is not changed.
    Raises ``PipelineFailed`` for samples that are not finite.
    """
    samples = audio.detach().float().reshape(-1, audio.shape[-1])[:2, :count].cpu().numpy()
    if not np.isfinite(samples).all():
        raise PipelineFailed(
            "The model made samples that are not finite numbers. It may need more precision than "
            "it is loaded with (`dtype` in the catalogue)."
        )
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > CEILING:
        samples = samples * np.float32(CEILING / peak)
    return np.pad(samples, ((0, 0), (0, count - samples.shape[1])))


OPUS_RATE = 48_000
"""Opus has a few fixed rates (RFC 6716, section 2). This one loses nothing."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Settings for writing files of one media type."""

    container: str
    codec: str
    form: str  # FFmpeg's sample format
    bit_rate: int | None = None  # bits a second and channel; None: lossless
    rates: tuple[int, ...] = ()  # supported samples a second; empty: any
    mark: tuple[str, str] | None = None  # FFmpeg's name and value of the mark; None: not by FFmpeg


_TAG = (TAG, TRAINED_ALGORITHMIC_MEDIA)

_KINDS: Mapping[str, _Kind] = {
    "audio/wav": _Kind("wav", "pcm_s16le", "s16"),
    "audio/flac": _Kind("flac", "flac", "s16", mark=_TAG),
    "audio/mpeg": _Kind(
        "mp3",
        "libmp3lame",
        "fltp",
        96_000,
        (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
        ("id3v2_priv.XMP", XMP),
    ),
    "audio/ogg": _Kind("ogg", "libopus", "flt", 80_000, (OPUS_RATE,), _TAG),
}


def write_audio(
    path: Path,
    samples: Samples,
    rate: int,
    media_type: str,
    on_part: Callable[[int], None] = lambda _: None,
    comment: str = "",
    *,
    marked: bool = False,
) -> None:
    """Write ``samples`` to a file. ``rate``: samples a second. ``comment``: for the file's tags.
    ``marked``: the file says that it is AI-generated.

    ``on_part`` gets the number of samples written, second by second; an exception from it ends the
    writing. A rate that the media type does not support is changed to the next higher one, if there
    is one, else to the highest. Raises ``Unsupported`` when files of that type cannot be written.
    """
    kind = _KINDS.get(media_type)
    if kind is None:
        raise Unsupported(
            f"Audio cannot be written as {media_type}. Ask for another output_format."
        )
    layout = "mono" if len(samples) == 1 else "stereo"
    # Without `bitexact`, Ogg gets a random number.
    settings = {"fflags": "bitexact"}
    with av.open(str(path), "w", format=kind.container, options=settings) as container:
        if comment:
            container.metadata["comment"] = comment
        if marked and kind.mark:
            name, value = kind.mark
            container.metadata[name] = value
        stream = _audio_stream(container, kind, media_type, rate)
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
    if marked:
        add_xmp(path, media_type, XMP)


def _audio_stream(
    container: OutputContainer, kind: _Kind, media_type: str, rate: int
) -> AudioStream:
    try:
        stream = container.add_stream(kind.codec, rate=_rate(kind, rate))
    except UnknownCodecError:
        raise Unsupported(
            f"FFmpeg on this machine was built without {kind.codec}, which is needed for "
            f"{media_type}. Ask for another output_format."
        ) from None
    if not isinstance(stream, AudioStream):
        raise TypeError(f"{kind.codec} is not an audio codec.")
    return stream


def _rate(kind: _Kind, rate: int) -> int:
    if not kind.rates or rate in kind.rates:
        return rate
    return next((candidate for candidate in kind.rates if candidate > rate), kind.rates[-1])


FORMATS = ("WAV", "FLAC", "MP3", "AAC", "Ogg", "M4A", "WebM")

MIN_RATE = 4_000
"""Samples a second of the slowest audio that is read. Each sample of a slower file would become
thousands of samples of a model: 10 kB at 1 Hz took 400 MB."""

MAX_FRAME_S = 60
"""Length of one packet of audio. Codecs make packets of less than 5 seconds."""

_BEGINNINGS = {b"fLaC": "flac", b"OggS": "ogg", b"ID3": "mp3"}


class InputAudio:
    """Audio named by an input field. It is decoded on demand, at a model's sample rate."""

    def __init__(self, media: InputMedia) -> None:
        self._media = media

    def read_first(self) -> None:
        """Decode the first samples. Raises ``InvalidInput`` when there are none."""
        with self._media.open() as container:
            if next(self._decode_frames(container), None) is None:
                raise self._media.unread("it has no samples")

    def _decode_frames(self, container: InputContainer) -> Iterator[AudioFrame]:
        if not container.streams.audio:
            return
        for frame in container.decode(container.streams.audio[0]):
            if frame.sample_rate < MIN_RATE:
                raise self._media.unread(f"it has fewer than {MIN_RATE} samples a second")
            if frame.samples > MAX_FRAME_S * frame.sample_rate:
                raise self._media.unread(f"a packet has more than {MAX_FRAME_S} seconds")
            yield frame

    def samples(self, rate: int, channels: int, most_s: float) -> Samples:
        """Return the first ``most_s`` seconds: float32 [channels, samples], -1 to 1.

        ``rate``: samples a second. ``channels``: 1 or 2. Raises ``InvalidInput`` naming the field.
        """
        with self._media.open() as container:
            mixed = _mix_samples(
                self._decode_frames(container), channels, rate, round(most_s * rate)
            )
        if mixed is None:  # a damaged file may have fewer samples than the resampler needs
            raise self._media.unread("it has no samples")
        return mixed


def read_audio(body: bytes, field: str) -> InputAudio:
    """Open an audio file. Raises ``InvalidInput`` naming the field if the file is not audio."""
    type_ = "unsupported_audio_format"
    audio = InputAudio(InputMedia(body, field, "audio", type_, FORMATS, _demuxer))
    audio.read_first()
    return audio


_DOWNMIX = {"rematrix_maxval": "1.0"}
"""The weights of a channel add up to 1 at most. By FFmpeg's default for float samples, they add up
to 2.4 for 5.1 to stereo, which clips."""


def _mix_samples(
    frames: Iterator[AudioFrame], channels: int, rate: int, count: int
) -> Samples | None:
    """The first ``count`` samples of ``frames``, in one or two channels; None: there are none."""
    if (first := next(frames, None)) is None:
        return None
    # FFmpeg spreads one channel over two at -3 dB, so it is repeated instead.
    layout = "mono" if channels == 1 or first.layout.nb_channels == 1 else "stereo"
    resampler = AudioResampler("fltp", layout, rate, options=_DOWNMIX)
    parts: list[Samples] = []
    for frame in chain((first,), frames, (None,)):  # None makes it return the rest that it holds
        for resampled in resampler.resample(frame):
            parts.append(resampled.to_ndarray()[:, :count].astype(np.float32, copy=False))
            count -= parts[-1].shape[1]
        if count <= 0:
            break
    if not parts:
        return None
    samples = np.clip(np.concatenate(parts, axis=1), -1.0, 1.0)
    return np.repeat(samples, channels // len(samples), axis=0)


def _demuxer(body: bytes) -> str | None:
    if is_isobmff(body):
        return "mov"
    if is_matroska(body):
        return "matroska"
    if body.startswith(b"RIFF") and body[8:12] == b"WAVE":
        return "wav"
    if len(body) > 1 and body[0] == 0xFF and body[1] & 0xE0 == 0xE0:  # sync bits of an MPEG frame
        return "mp3" if body[1] & 0x06 else "aac"  # the layer bits are 0 in ADTS
    return next((name for begins, name in _BEGINNINGS.items() if body.startswith(begins)), None)


@dataclass(frozen=True, slots=True, eq=False)
class Soundtrack:
    """Audio track of a generated video, which is cut at its frames."""

    samples: NDArray[np.float32]  # [2, samples], -1 to 1
    rate: int  # samples a second

    @classmethod
    def of(cls, audio: torch.Tensor, rate: int) -> Soundtrack:
        """Level and store audio.

        ``audio``: [channels, samples] with one or two channels, or [samples], on any device. It may
        be made quieter, and may be refused; see ``limit_peak``.
        """
        samples = limit_peak(audio, audio.shape[-1])
        return cls(np.broadcast_to(samples, (2, samples.shape[1])), rate)

    def during(self, start_s: Fraction, end_s: Fraction) -> NDArray[np.float32]:
        """Return the samples from ``start_s`` to ``end_s``, padded with silence after the end.

        Consecutive intervals have no gaps between them.
        """
        start, end = round(start_s * self.rate), round(end_s * self.rate)
        part = self.samples[:, start:end]
        return np.pad(part, ((0, 0), (0, end - start - part.shape[1])))


OUTLINE_RATE = 8000  # samples a second: a column of the picture still spans many
OUTLINE_S = 1800.0


def outline(file: BinaryIO) -> Image.Image:
    """Waveform of the first half hour of audio that Darkroom wrote. ``ValueError`` or ``OSError``
    if it has no samples."""
    with av.open(file, "r") as container:
        count = round(OUTLINE_S * OUTLINE_RATE)
        samples = _mix_samples(container.decode(audio=0), 1, OUTLINE_RATE, count)
    if samples is None:
        raise ValueError("The audio has no samples.")
    return waveform(samples)


WIDTH, HEIGHT = 960, 240  # pixels
GROUND, LINE, SWING = (18, 20, 24), (70, 76, 86), (120, 200, 255)


def waveform(samples: Samples) -> Image.Image:
    """Draw a waveform. Each column spans the least to the greatest sample of its time interval.

    The range is over all channels.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
    draw = ImageDraw.Draw(image)
    middle, reach = (HEIGHT - 1) / 2, (HEIGHT - 1) / 2 - 4
    draw.line((0, middle, WIDTH, middle), fill=LINE)
    edges = np.linspace(0, samples.shape[1], WIDTH + 1).astype(int)
    for column in range(WIDTH):
        # Audio with fewer samples than columns repeats some.
        part = samples[:, edges[column] : max(edges[column + 1], edges[column] + 1)]
        low, high = float(part.min(initial=0.0)), float(part.max(initial=0.0))
        if low != high:
            draw.line((column, middle - high * reach, column, middle - low * reach), fill=SWING)
    return image
