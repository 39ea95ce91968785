"""The mark of AI-generated files, added to files that other code has written."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from deployments.executors.marks import add_mark
from serve_app.domain.media.marking import TRAINED_ALGORITHMIC_MEDIA, XMP, is_marked


def image(mode: str = "RGB") -> Image.Image:
    return Image.effect_noise((33, 21), 60).convert(mode)


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
    assert add_mark(path, media_type)
    assert is_marked(path.read_bytes())
    with Image.open(path) as after:
        assert np.array_equal(np.array(after), pixels)
        if media_type != "image/gif":  # Pillow reads no XMP of GIF
            found = after.info.get("xmp") or after.info.get("XML:com.adobe.xmp")
            assert found in (XMP, XMP.encode())
    assert list(tmp_path.iterdir()) == [path]


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
        for each in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(stream.encode(each))


def heard(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.concatenate([each.to_ndarray() for each in container.decode(audio=0)], axis=-1)


@pytest.mark.parametrize("media_type", SOUNDS)
def test_a_marked_audio_file_sounds_the_same(tmp_path: Path, media_type: str) -> None:
    path = tmp_path / "sound"
    write_sound(path, *SOUNDS[media_type])
    before = heard(path)
    assert add_mark(path, media_type)
    assert is_marked(path.read_bytes())
    assert np.array_equal(heard(path), before)
    assert list(tmp_path.iterdir()) == [path]


def test_an_mp3_file_without_a_tag_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "sound"
    write_sound(path, *SOUNDS["audio/mpeg"], write_id3v2="0", id3v2_version="0")
    assert not path.read_bytes().startswith(b"ID3")
    before = heard(path)
    assert add_mark(path, "audio/mpeg")
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
            return [each.to_ndarray(format="rgb24").tobytes() for each in container.decode(video=0)]

    before = frames()
    assert add_mark(path, media_type)
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
    assert not add_mark(path, media_type)
    assert path.read_bytes() == b"something else"
    assert list(tmp_path.iterdir()) == [path]
