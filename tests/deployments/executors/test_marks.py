"""The mark of AI-generated files, added to files that other code has written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from PIL import Image

from deployments.executors.marks import insert
from serve_app.domain.media.file_metadata import MAX_BYTES, FileMetadata, find
from serve_app.domain.media.marking import TRAINED_ALGORITHMIC_MEDIA, XMP, is_marked


def image(mode: str = "RGB") -> Image.Image:
    return Image.effect_noise((33, 21), 60).convert(mode)


WRITTEN = FileMetadata(
    "apps/a", "python:1", 7, 'a <b> & "c"', {"size": {"width": 64}}, "r-1", left_out=("image_url",)
)

IMAGES = {
    "png": ("image/png", "RGBA", {}),
    "jpeg": ("image/jpeg", "RGB", {}),
    "jpeg without JFIF": ("image/jpeg", "CMYK", {}),
    "webp": ("image/webp", "RGB", {}),
    "lossless webp": ("image/webp", "RGBA", {"lossless": True}),
    "webp with EXIF": ("image/webp", "RGB", {"exif": b"Exif\0\0II*\0"}),
    "gif": ("image/gif", "P", {}),
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_marked_image_shows_the_same_pixels(tmp_path: Path, name: str) -> None:
    media_type, mode, options = IMAGES[name]
    path = tmp_path / "image"
    image(mode).save(path, media_type.rpartition("/")[2], **options)
    with Image.open(path) as before:
        pixels = np.array(before)
    assert insert(path, media_type)
    assert is_marked(path.read_bytes())
    with Image.open(path) as after:
        assert np.array_equal(np.array(after), pixels)
        if media_type != "image/gif":  # Pillow reads no XMP of GIF
            embedded = after.info.get("xmp") or after.info.get("XML:com.adobe.xmp")
            assert embedded in (XMP, XMP.encode())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("name", IMAGES)
def test_an_image_says_what_made_it(tmp_path: Path, name: str, *, marked: bool) -> None:
    media_type, mode, options = IMAGES[name]
    path = tmp_path / "image"
    image(mode).save(path, media_type.rpartition("/")[2], **options)
    assert insert(path, media_type, WRITTEN.text(), mark=marked)
    content = path.read_bytes()
    assert find(content) == WRITTEN
    assert is_marked(content) is marked
    with Image.open(path) as after:
        after.load()
        if media_type != "image/gif":
            packet = after.info.get("xmp") or after.info["XML:com.adobe.xmp"]
            read = ElementTree.fromstring(packet)  # noqa: S314  our own
            assert "".join(read.itertext()).endswith(WRITTEN.text()), "other programs show it"


def test_the_longest_description_fits_into_every_image(tmp_path: Path) -> None:
    long = replace(WRITTEN, prompt="&" * 31_000).text()
    assert len(long) <= MAX_BYTES
    for name, (media_type, mode, options) in IMAGES.items():
        path = tmp_path / name
        image(mode).save(path, media_type.rpartition("/")[2], **options)
        assert insert(path, media_type, long)
        assert find(path.read_bytes()) is not None
        with Image.open(path) as after:
            after.load()


SOUNDS = {
    "audio/wav": ("wav", "pcm_s16le"),
    "audio/x-wav": ("wav", "pcm_s16le"),
    "audio/mpeg": ("mp3", "libmp3lame"),
    "audio/flac": ("flac", "flac"),
    "audio/ogg": ("ogg", "libopus"),
    "audio/mp4": ("mp4", "aac"),
}


def write_sound(path: Path, form: str, codec: str, **options: str) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, (1, 48_000)).astype(np.float32)
    with av.open(str(path), "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=48_000)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        resampler = av.AudioResampler(stream.format, "mono", 48_000, stream.frame_size or None)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 48_000
        for resampled in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(stream.encode(resampled))


def heard(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=-1)


@pytest.mark.parametrize("media_type", SOUNDS)
def test_a_marked_audio_file_sounds_the_same(tmp_path: Path, media_type: str) -> None:
    path = tmp_path / "sound"
    write_sound(path, *SOUNDS[media_type])
    before = heard(path)
    assert insert(path, media_type, WRITTEN.text())
    assert is_marked(path.read_bytes())
    assert find(path.read_bytes()) == WRITTEN
    assert np.array_equal(heard(path), before)
    assert list(tmp_path.iterdir()) == [path]


def test_an_mp3_file_without_a_tag_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "sound"
    write_sound(path, *SOUNDS["audio/mpeg"], write_id3v2="0", id3v2_version="0")
    assert not path.read_bytes().startswith(b"ID3")
    before = heard(path)
    assert insert(path, "audio/mpeg")
    assert np.array_equal(heard(path), before)


@pytest.mark.parametrize(
    ("media_type", "form", "codec"),
    [("video/mp4", "mp4", "libx264"), ("video/webm", "webm", "libvpx-vp9")],
)
def test_a_marked_video_shows_the_same_frames(
    tmp_path: Path, media_type: str, form: str, codec: str
) -> None:
    path = tmp_path / "video"
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=8)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(5):
            frame = av.VideoFrame.from_image(Image.new("RGB", (32, 32), (number * 50, 0, 0)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    def frames() -> list[bytes]:
        with av.open(str(path)) as container:
            return [
                decoded.to_ndarray(format="rgb24").tobytes()
                for decoded in container.decode(video=0)
            ]

    before = frames()
    assert insert(path, media_type, WRITTEN.text())
    assert find(path.read_bytes()) == WRITTEN
    assert frames() == before
    with av.open(str(path)) as container:
        tagged = container.metadata.get("DIGITALSOURCETYPE") or container.metadata.get(
            "DigitalSourceType"
        )
    assert media_type == "video/mp4" or tagged == TRAINED_ALGORITHMIC_MEDIA


@pytest.mark.parametrize(
    "media_type",
    [
        *("image/png", "image/jpeg", "image/webp", "image/gif", "audio/wav", "audio/mpeg"),
        *("audio/flac", "video/webm", "video/mp4", "application/json"),
    ],
)
def test_a_file_that_cannot_be_marked_stays_as_it_was(tmp_path: Path, media_type: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"something else")
    assert not insert(path, media_type)
    assert path.read_bytes() == b"something else"
    assert list(tmp_path.iterdir()) == [path]
