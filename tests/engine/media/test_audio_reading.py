"""Audio that inputs name is read at the rate of a model, and nothing about it is trusted."""

import struct
import time

import av
import numpy as np
import pytest

from deployments.engine.media.audio import read_audio, write_audio
from serve_app.domain.errors import InvalidInput
from tests.engine.media.test_audio import TYPES, loudest_hertz, tone
from tests.engine.media.test_video_reader import video

pytestmark = pytest.mark.engine


def audio(tmp_path, media_type="audio/wav", seconds=1.5, rate=44_100, channels=2):
    path = tmp_path / "audio"
    write_audio(path, tone(440, seconds, rate, channels), rate, media_type)
    return path.read_bytes()


def m4a(tmp_path):
    path = tmp_path / "audio.m4a"
    with av.open(str(path), "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=44_100)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(tone(440, 1.5, 44_100, 1), "fltp", "mono")
        frame.sample_rate = 44_100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("media_type", [*TYPES, "audio/mp4"])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_audio_file_is_read_at_the_rate_and_in_the_channels_that_are_asked_for(
    tmp_path, media_type, channels
):
    body = m4a(tmp_path) if media_type == "audio/mp4" else audio(tmp_path, media_type)
    samples = read_audio(body, "audio_url").samples(16_000, channels, 10)
    assert samples.dtype == np.float32
    assert len(samples) == channels
    assert samples.shape[1] / 16_000 == pytest.approx(1.5, abs=0.07)
    assert loudest_hertz(samples, 16_000) == pytest.approx(440, abs=3)
    assert np.abs(samples).max() <= 1


def test_a_channel_is_as_loud_in_both_of_stereo(tmp_path):
    samples = read_audio(audio(tmp_path, rate=8_000, channels=1), "audio_url").samples(8_000, 2, 10)
    assert np.allclose(samples, np.repeat(tone(440, 1.5, 8_000, 1), 2, axis=0), atol=1e-4)


def surround(tmp_path, layout):
    """A WAV file whose channels are all the same sine at full scale."""
    path = tmp_path / "surround.wav"
    sine = np.sin(2 * np.pi * 440 * np.arange(8_000) / 8_000) * 32_767
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8_000, layout=layout)
        samples = np.repeat(sine.astype(np.int16), stream.layout.nb_channels)
        frame = av.AudioFrame("s16", layout, len(sine))
        frame.planes[0].update(samples.tobytes())
        frame.sample_rate = 8_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("layout", ["stereo", "3.0", "5.1", "7.1"])
@pytest.mark.parametrize("channels", [1, 2])
def test_loud_channels_are_mixed_without_clipping(tmp_path, layout, channels):
    samples = read_audio(surround(tmp_path, layout), "audio_url").samples(8_000, channels, 10)
    peaks = np.abs(samples).max(axis=1)
    assert peaks == pytest.approx(1, abs=0.01)
    assert peaks / np.sqrt((samples**2).mean(axis=1)) == pytest.approx(np.sqrt(2), abs=0.01)


def test_what_is_beyond_the_seconds_that_a_model_makes_is_left_out(tmp_path):
    sound = read_audio(audio(tmp_path), "audio_url")
    assert sound.samples(8_000, 1, 0.5).shape == (1, 4_000)
    exact = read_audio(audio(tmp_path, rate=8_000), "audio_url").samples(8_000, 2, 10)
    assert np.allclose(exact, tone(440, 1.5, 8_000), atol=1e-4)


def test_the_audio_of_a_video_is_an_audio_file_and_a_silent_video_is_none(tmp_path):
    with pytest.raises(InvalidInput, match="no samples"):
        read_audio(video(tmp_path), "audio_url")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"#EXTM3U\nfile:///etc/passwd",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\x24\0\0\0WAVE" + bytes(10),
        b"fLaC" + bytes(40),
        b"OggS" + bytes(40),
        b"ID3" + bytes(40),
        b"\xff\xfb" + bytes(40),
        b"\xff\xf1" + bytes(40),
    ],
)
def test_what_is_no_audio_is_refused_by_the_name_of_its_field(body):
    with pytest.raises(InvalidInput) as raised:
        read_audio(body, "audio_url")
    (problem,) = raised.value.problems
    assert (problem.loc, problem.type) == (("body", "audio_url"), "unsupported_audio_format")


def wav(rate, samples=2_000):
    content = bytes(2 * samples)
    head = struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    data = b"data" + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", 28 + len(data)) + b"WAVEfmt " + head + data


@pytest.mark.parametrize("rate", [1, 100, 3_999, 2**31 - 1])
def test_audio_with_a_rate_that_no_one_hears_is_refused(rate):
    with pytest.raises(InvalidInput) as raised:
        read_audio(wav(rate), "audio_url").samples(48_000, 2, 60)
    assert raised.value.problems[0].loc == ("body", "audio_url")


@pytest.mark.long
def test_hours_of_silence_are_read_as_far_as_a_model_needs_them(tmp_path):
    path = tmp_path / "silence.flac"
    rate, hours = 8_000, 4
    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=rate)
        stream.layout = "mono"
        silence = np.zeros((1, 60 * rate), np.int16)
        for minute in range(60 * hours):
            frame = av.AudioFrame.from_ndarray(silence, "s16", "mono")
            frame.sample_rate, frame.pts = rate, minute * 60 * rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    body = path.read_bytes()
    assert 50 * len(body) < 2 * rate * 3600 * hours
    began = time.process_time()
    assert read_audio(body, "audio_url").samples(8_000, 1, 2).shape == (1, 16_000)
    assert time.process_time() - began < 2


def test_a_minute_of_pcm_in_a_movie_file_is_read(tmp_path):
    path = tmp_path / "audio.mov"
    with av.open(str(path), "w", format="mov") as container:
        stream = container.add_stream("pcm_s16le", rate=48_000)
        stream.layout = "mono"
        for second in range(60):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = 48_000, second * 48_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert read_audio(path.read_bytes(), "audio_url").samples(8_000, 1, 60).shape[1] > 470_000
