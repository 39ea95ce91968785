"""Files of sounds to samples, as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer

from deployments.engine.given_media import GivenMedia, is_isobmff, is_matroska
from deployments.engine.sound_levels import Samples

FORMATS = ("WAV", "FLAC", "MP3", "AAC", "Ogg", "M4A", "WebM")

_BEGINNINGS = {b"fLaC": "flac", b"OggS": "ogg", b"ID3": "mp3"}


class GivenSound:
    """A sound that an input names. It is decoded when it is asked for, at a model's rate."""

    def __init__(self, media: GivenMedia) -> None:
        self._media = media

    def read_first(self) -> None:
        """``InvalidInput`` where there is nothing to hear."""
        with self._media.opened() as container:
            if next(_decoded(container), None) is None:
                raise self._media.unread("it has no samples")

    def samples(self, rate: int, channels: int, most_s: float) -> Samples:
        """Its first ``most_s`` seconds: float32 [channels, samples], -1 to 1, ``rate`` a second.
        ``channels``: 1 or 2. ``InvalidInput`` names the field."""
        resampler = AudioResampler("fltp", "mono" if channels == 1 else "stereo", rate)
        parts: list[Samples] = []
        left = round(most_s * rate)
        with self._media.opened() as container:
            for frame in _and_none(_decoded(container)):
                for made in resampler.resample(frame):
                    parts.append(made.to_ndarray()[:, :left].astype(np.float32, copy=False))
                    left -= parts[-1].shape[1]
                if left <= 0:
                    break
        return np.clip(np.concatenate(parts, axis=1), -1.0, 1.0)


def read_sound(body: bytes, field: str) -> GivenSound:
    """``InvalidInput`` names the field of a file that is no sound."""
    type_ = "unsupported_audio_format"
    sound = GivenSound(GivenMedia(body, field, "sound", type_, FORMATS, _demuxer))
    sound.read_first()
    return sound


def _decoded(container: InputContainer) -> Iterator[AudioFrame]:
    if container.streams.audio:
        yield from container.decode(container.streams.audio[0])


def _and_none(frames: Iterator[AudioFrame]) -> Iterator[AudioFrame | None]:
    """None has a resampler give what it still holds."""
    yield from frames
    yield None


def _demuxer(body: bytes) -> str | None:
    if is_isobmff(body):
        return "mov"
    if is_matroska(body):
        return "matroska"
    if body.startswith(b"RIFF") and body[8:12] == b"WAVE":
        return "wav"
    if len(body) > 1 and body[0] == 0xFF and body[1] & 0xE0 == 0xE0:  # an MPEG frame's first bits
        return "mp3" if body[1] & 0x06 else "aac"  # ADTS has no layer
    return next((name for begins, name in _BEGINNINGS.items() if body.startswith(begins)), None)
