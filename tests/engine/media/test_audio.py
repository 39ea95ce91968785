"""Audio as files: what was made is what is heard, in every type."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from deployments.engine.media.audio import CEILING, HEIGHT, WIDTH, limit_peak, waveform, write_audio
from serve_app.domain.errors import PipelineFailed, Unsupported

pytestmark = pytest.mark.engine

TYPES = {"audio/wav": "wav", "audio/flac": "flac", "audio/mpeg": "mp3", "audio/ogg": "ogg"}


def tone(hertz: float, seconds: float, rate: int, channels: int = 2) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    wave = 0.5 * np.sin(2 * np.pi * hertz * times)
    return np.tile(wave, (channels, 1)).astype(np.float32)


def read(path: Path) -> tuple[np.ndarray, int]:
    """[channels, samples] and the rate."""
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        resampler = av.AudioResampler("fltp", stream.layout, stream.rate)
        parts = [
            resampled.to_ndarray()
            for frame in [*file.decode(stream), None]
            for resampled in resampler.resample(frame)
        ]
        return np.concatenate(parts, axis=1), stream.rate


def loudest_hertz(samples: np.ndarray, rate: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples[0]))) * rate / samples.shape[1])


@pytest.mark.parametrize("media_type", TYPES)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_tone_is_heard_at_its_pitch_as_long_as_it_was_and_as_loud(tmp_path, media_type, channels):
    path = tmp_path / f"tone.{TYPES[media_type]}"
    write_audio(path, tone(440, 1.5, 44_100, channels), 44_100, media_type)
    samples, rate = read(path)
    assert len(samples) == channels
    assert samples.shape[1] / rate == pytest.approx(1.5, abs=0.06)  # codecs pad to whole frames
    assert loudest_hertz(samples, rate) == pytest.approx(440, abs=2)
    assert np.sqrt((samples[:, rate // 4 : rate] ** 2).mean()) == pytest.approx(0.354, abs=0.02)


@pytest.mark.parametrize("media_type", ["audio/wav", "audio/flac"])
def test_types_that_lose_nothing_give_back_every_sample(tmp_path, media_type):
    wave = tone(200, 2.25, 16_000)
    path = tmp_path / "audio"
    write_audio(path, wave, 16_000, media_type)
    samples, rate = read(path)
    assert (rate, samples.shape) == (16_000, wave.shape)
    assert np.abs(samples - wave).max() <= 1 / 32_768


@pytest.mark.parametrize(("media_type", "rate"), [("audio/mpeg", 8_000), ("audio/ogg", 48_000)])
def test_a_rate_that_the_type_does_not_have_is_changed_and_the_pitch_stays(
    tmp_path, media_type, rate
):
    path = tmp_path / "audio"
    write_audio(path, tone(100, 1, 4_000), 4_000, media_type)
    samples, got = read(path)
    assert got == rate
    assert loudest_hertz(samples, got) == pytest.approx(100, abs=2)


def test_each_second_is_reported_and_an_error_raised_then_ends_the_writing(tmp_path):
    reported: list[int] = []
    write_audio(tmp_path / "a.wav", tone(100, 2.5, 1_000), 1_000, "audio/wav", reported.append)
    assert reported == [1_000, 2_000, 2_500]

    def stop(done: int) -> None:
        raise KeyboardInterrupt(done)

    with pytest.raises(KeyboardInterrupt):
        write_audio(tmp_path / "b.wav", tone(100, 2.5, 1_000), 1_000, "audio/wav", stop)


def test_a_type_that_is_no_audio_is_refused(tmp_path):
    with pytest.raises(Unsupported, match="video/mp4"):
        write_audio(tmp_path / "a", tone(100, 1, 1_000), 1_000, "video/mp4")


def test_an_audio_file_that_is_too_loud_is_made_quieter_as_a_whole():
    wave = torch.tensor(tone(50, 1, 1_000)) * 6
    samples = limit_peak(wave, 1_000)
    assert np.abs(samples).max() == pytest.approx(CEILING)
    assert np.allclose(samples / samples.max(), wave.numpy() / wave.numpy().max(), atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 0.01, 1.5])
def test_one_that_is_not_stays_as_it_is(scale):
    wave = torch.tensor(tone(50, 1, 1_000)) * scale
    assert np.array_equal(limit_peak(wave, 1_000), wave.numpy())


def test_it_has_as_many_samples_as_were_asked_for():
    wave = torch.ones(1, 10, dtype=torch.bfloat16) / 2
    assert limit_peak(wave, 4).shape == (1, 4)
    longer = limit_peak(wave[0], 14)
    assert (longer.shape, longer[0, 9], longer[0, 10]) == ((1, 14), 0.5, 0.0)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_samples_that_are_no_numbers_are_an_error_that_says_so(wrong):
    wave = torch.zeros(2, 100)
    wave[1, 50] = wrong
    with pytest.raises(PipelineFailed, match="not finite numbers"):
        limit_peak(wave, 100)


def test_the_image_is_high_where_the_audio_is_loud():
    samples = np.concatenate([tone(1_000, 1, 8_000) * 0.2, tone(1_000, 1, 8_000) * 1.6], axis=1)
    pixels = np.asarray(waveform(samples).convert("L")).astype(int)
    assert pixels.shape == (HEIGHT, WIDTH)
    heights = (pixels > 150).sum(axis=0)
    quiet, loud = heights[10 : WIDTH // 2 - 10].mean(), heights[WIDTH // 2 + 10 : -10].mean()
    assert quiet == pytest.approx(0.1 * HEIGHT, rel=0.15)
    assert loud == pytest.approx(0.8 * HEIGHT, rel=0.15)


def test_silence_is_a_line_also_when_it_has_fewer_samples_than_columns():
    pixels = np.asarray(waveform(np.zeros((1, 7), np.float32)).convert("L")).astype(int)
    assert not (pixels > 150).any()
