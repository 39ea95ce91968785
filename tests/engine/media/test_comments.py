"""Comments in files of every format: they are found again, and change nothing else."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from deployments.engine.media.audio import write_audio
from deployments.engine.media.images import encode
from deployments.engine.media.scratch import Scratch
from deployments.engine.media.video_format import VideoForm
from deployments.engine.media.video_writer import VideoFile
from serve_app.domain.media.file_metadata import FileMetadata, find

WRITTEN = FileMetadata("a/b", "o/n@1", 7, "a café 🎈", {"steps": 4, "text": "y" * 3000}, "r-1")
COMMENT = WRITTEN.text()
NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp"])
def test_an_image_has_its_comment_and_the_same_pixels(media_type: str) -> None:
    image = Image.fromarray(NOISE)
    plain, described = encode(image, media_type), encode(image, media_type, COMMENT)
    assert find(plain) is None
    assert find(described) == WRITTEN
    assert encode(image, media_type, COMMENT) == described
    before, after = (Image.open(io.BytesIO(content)) for content in (plain, described))
    assert before.tobytes() == after.tobytes()
    assert (after.mode, after.size, after.getexif().get(0x0112)) == ("RGB", (32, 24), None)


def test_other_programs_read_the_comment_of_an_image() -> None:
    image = Image.fromarray(NOISE)
    png = Image.open(io.BytesIO(encode(image, "image/png", COMMENT)))
    assert png.info["Comment"] == COMMENT
    for media_type in ("image/jpeg", "image/webp"):
        exif = Image.open(io.BytesIO(encode(image, media_type, COMMENT))).getexif()
        assert exif[0x0131] == "Darkroom"
        assert exif.get_ifd(0x8769)[0x9286] == b"ASCII\0\0\0" + COMMENT.encode()


@pytest.mark.parametrize(
    ("media_type", "extension"),
    [("audio/wav", "wav"), ("audio/flac", "flac"), ("audio/mpeg", "mp3"), ("audio/ogg", "ogg")],
)
def test_an_audio_file_has_its_comment_and_the_same_samples(
    tmp_path: Path, media_type: str, extension: str
) -> None:
    samples = np.sin(np.arange(48_000, dtype=np.float32) / 20)[None]
    files = [tmp_path / f"{name}.{extension}" for name in ("plain", "described", "again")]
    for path, comment in zip(files, ("", COMMENT, COMMENT), strict=True):
        write_audio(path, samples, 48_000, media_type, comment=comment)
    plain, described, again = files
    assert find(plain.read_bytes()) is None
    assert find(described.read_bytes()) == WRITTEN
    assert described.read_bytes() == again.read_bytes()
    assert packets(plain) == packets(described)
    assert COMMENT in tags(described).values()


@pytest.mark.parametrize(
    ("media_type", "extension"), [("video/mp4", "mp4"), ("video/webm", "webm")]
)
def test_a_video_has_its_comment_and_the_same_frames(
    tmp_path: Path, media_type: str, extension: str
) -> None:
    form = VideoForm(media_type, 32, 24, Fraction(8), 3)
    files = [tmp_path / f"{name}.{extension}" for name in ("plain", "described", "again")]
    for path, comment in zip(files, ("", COMMENT, COMMENT), strict=True):
        scratch = Scratch()
        scratch.description = comment
        video = VideoFile(path, form, scratch)
        for _ in range(3):
            video.add(NOISE)
        video.finish()
    plain, described, again = files
    assert find(plain.read_bytes()) is None
    assert find(described.read_bytes()) == WRITTEN
    assert described.read_bytes() == again.read_bytes()
    assert packets(plain) == packets(described)
    assert COMMENT in tags(described).values()


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux() if packet.size]


def tags(path: Path) -> dict[str, str]:
    """Tags of the file, or of its only stream, where Ogg has them."""
    with av.open(str(path)) as container:
        return {**container.streams[0].metadata, **container.metadata}
