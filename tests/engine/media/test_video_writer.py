"""Frames to files of videos."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from deployments.engine.media.audio import CEILING, Soundtrack
from deployments.engine.media.video_format import VideoForm, even
from deployments.engine.media.video_writer import VideoWriter
from serve_app.domain.errors import PipelineFailed, Unsupported
from tests.deployments.videos import decode_video

pytestmark = pytest.mark.engine

TYPES = {"mp4": "video/mp4", "webm": "video/webm", "gif": "image/gif"}


def form(name="mp4", width=48, height=32, fps=Fraction(24), num_frames=7, **more):
    return VideoForm(TYPES[name], width, height, fps, num_frames, **more)


def draw_frames(width, height, count):
    """A bright bar that wanders to the right."""
    for number in range(count):
        frame = np.full((height, width, 3), (40, 60, 90), dtype=np.uint8)
        at = number * width // (2 * count)
        frame[:, at : at + width // 3] = (220, 180, 40)
        yield frame


def write_video(path, wanted, size=None):
    with VideoWriter(path, wanted) as writer:
        for frame in draw_frames(*(size or (wanted.width, wanted.height)), wanted.num_frames):
            writer.write(frame)
    return decode_video(path)


PACES = [Fraction(24), Fraction(16), Fraction(30000, 1001), Fraction(25, 2), Fraction(60)]


@pytest.mark.parametrize("fps", PACES)
def test_an_mp4_has_the_pace_and_the_duration_that_were_asked_for(tmp_path, fps):
    video = write_video(tmp_path / "a.mp4", form(fps=fps, num_frames=13))
    assert video.fps == fps
    assert video.duration_s == pytest.approx(float(13 / fps), abs=1e-5)
    assert video.times_s == pytest.approx([float(n / fps) for n in range(13)], abs=1e-4)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("size", [(48, 32), (47, 31), (64, 98)])
def test_every_format_holds_the_frames_in_their_colours_at_every_size(tmp_path, name, size):
    if name == "mp4":
        size = (even(size[0]), even(size[1]))
    video = write_video(tmp_path / f"a.{name}", form(name, *size, quality="maximum"))
    assert video.size == size
    assert len(video.frames) == 7
    for frame, expected in zip(video.frames, draw_frames(*size, 7), strict=True):
        assert np.abs(frame.astype(int) - expected.astype(int)).mean() < 12
        assert np.abs(frame[:, -2:].astype(int) - expected[:, -2:]).mean() < 30


def test_frames_of_another_shape_lose_their_edges_and_are_scaled(tmp_path):
    frame = np.zeros((40, 100, 3), dtype=np.uint8)
    frame[:, 30:70] = 200  # the middle square
    with VideoWriter(tmp_path / "a.mp4", form(width=64, height=64, num_frames=1)) as writer:
        writer.write(frame)
    (picture,) = decode_video(tmp_path / "a.mp4").frames
    assert picture.shape == (64, 64, 3)
    assert picture.min() > 180


@pytest.mark.parametrize("name", TYPES)
def test_a_single_frame_is_a_video_too(tmp_path, name):
    assert len(write_video(tmp_path / f"a.{name}", form(name, num_frames=1)).frames) == 1


def test_a_player_can_begin_before_it_has_the_whole_file(tmp_path):
    write_video(tmp_path / "a.mp4", form())
    body = (tmp_path / "a.mp4").read_bytes()
    assert 0 < body.index(b"moov") < body.index(b"mdat")


def test_a_video_says_which_colours_it_has(tmp_path):
    write_video(tmp_path / "a.mp4", form())
    with av.open(str(tmp_path / "a.mp4")) as file:
        context = file.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
        assert (context.color_range, context.pix_fmt) == (1, "yuv420p")


@pytest.mark.parametrize("name", ["mp4", "webm"])
@pytest.mark.parametrize("channels", [1, 2])
def test_audio_lies_beside_the_frames(tmp_path, name, channels):
    rate, fps = 24000, Fraction(25)
    tone = torch.sin(torch.arange(rate) * 0.1).repeat(channels, 1) * 0.5
    track = Soundtrack.of(tone, rate)
    path = tmp_path / f"a.{name}"
    with VideoWriter(path, form(name, fps=fps, num_frames=25), rate) as writer:
        for number, frame in enumerate(draw_frames(48, 32, 25)):
            writer.write(frame)
            writer.write_audio(track.during(number / fps, (number + 1) / fps))
    video = decode_video(path)
    codec, _, seconds = video.audio
    assert codec == {"mp4": "aac", "webm": "opus"}[name]
    assert seconds == pytest.approx(1.0, abs=0.1)
    assert video.duration_s == pytest.approx(1.0, abs=0.05)
    assert len(video.frames) == 25


def test_an_audio_file_that_ends_before_the_frames_is_silent_after():
    track = Soundtrack.of(torch.full((2, 50), 0.5), 100)
    parts = [track.during(Fraction(n, 3), Fraction(n + 1, 3)) for n in range(3)]
    whole = np.concatenate(parts, axis=1)
    assert whole.shape == (2, 100)
    assert (whole[:, :50] == 0.5).all()
    assert (whole[:, 50:] == 0).all()


def test_a_loud_audio_of_a_video_becomes_quieter_and_none_of_it_is_cut_off():
    wave = torch.tensor([0.0, 1.0, 2.0, -4.0])
    samples = Soundtrack.of(wave, 100).samples
    assert np.allclose(samples / samples[0, 1], wave)
    assert np.abs(samples).max() == pytest.approx(CEILING)


def test_an_audio_file_of_a_video_that_is_no_numbers_is_said():
    with pytest.raises(PipelineFailed, match="not finite numbers"):
        Soundtrack.of(torch.tensor([0.0, float("nan")]), 100)


def test_what_no_video_is_written_as_is_said(tmp_path):
    with pytest.raises(Unsupported, match="cannot be written as image/png"):
        VideoWriter(tmp_path / "a.png", VideoForm("image/png", 8, 8, Fraction(8), 1))
    with pytest.raises(Unsupported, match="image/gif cannot have audio"):
        VideoWriter(tmp_path / "a.gif", form("gif"), 24000)


MEMORY = """
import resource, sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from deployments.engine.media.video_format import VideoForm
from deployments.engine.media.video_writer import VideoWriter

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
frame = np.random.default_rng(0).integers(0, 255, (144, 256, 3), dtype=np.uint8)
form = VideoForm("video/mp4", 256, 144, Fraction(24), 0, "low", "fast")
with VideoWriter(Path(sys.argv[1]), form) as writer:
    for number in range(150):
        writer.write(np.roll(frame, number, axis=1))
    before = peak()
    for number in range(1200):
        writer.write(np.roll(frame, number * 3, axis=1))
    print(peak() - before, 1200 * frame.nbytes / 2**20)
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_video(tmp_path: Path):
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "long.mp4")],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    grown, of_frames = map(float, ran.stdout.split())  # MiB
    assert of_frames > 100
    assert grown < 20
