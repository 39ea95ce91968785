"""Files of every format say that they are AI-generated, and are otherwise the same."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from PIL import Image

from deployments.engine.media.audio import write_audio
from deployments.engine.media.images import encode, thumbnail
from deployments.engine.media.scratch import Scratch
from deployments.engine.media.video_format import VideoForm
from deployments.engine.media.video_writer import VideoFile
from serve_app.domain.media.file_metadata import FileMetadata, find
from serve_app.domain.media.marking import TRAINED_ALGORITHMIC_MEDIA, XMP, is_marked
from tests.engine.media.test_comments import packets, tags

WRITTEN = FileMetadata("a/b", "o/n@1", 7, "a café", {"steps": 4})
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
SAMPLES = np.sin(np.arange(48_001, dtype=np.float32) / 20)[None]


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp"])
def test_other_programs_read_the_mark_of_an_image(media_type: str) -> None:
    image = Image.fromarray(NOISE)
    plain, marked = encode(image, media_type), encode(image, media_type, marked=True)
    assert not is_marked(plain)
    read = Image.open(io.BytesIO(marked))
    assert read.tobytes() == Image.open(io.BytesIO(plain)).tobytes()
    assert source_type(read) == TRAINED_ALGORITHMIC_MEDIA
    assert find(marked) is None, "it says nothing of the prompt"
    both = encode(image, media_type, WRITTEN.text(), marked=True)
    assert find(both) == WRITTEN
    assert source_type(Image.open(io.BytesIO(both))) == TRAINED_ALGORITHMIC_MEDIA


def source_type(image: Image.Image) -> str:
    """Digital source type in the XMP packet that Pillow finds."""
    packet = ElementTree.fromstring(image.info["xmp"])  # noqa: S314  our own
    element = packet.find(f".//{{{IPTC}}}DigitalSourceType")
    return "" if element is None else element.text or ""


def test_a_thumbnail_keeps_the_mark() -> None:
    small, _, _ = thumbnail(Image.fromarray(NOISE), marked=True)
    assert source_type(Image.open(io.BytesIO(small))) == TRAINED_ALGORITHMIC_MEDIA


@pytest.mark.parametrize(
    ("media_type", "extension"),
    [("video/mp4", "mp4"), ("video/webm", "webm"), ("image/gif", "gif")],
)
def test_a_video_has_the_mark_and_the_same_frames(
    tmp_path: Path, media_type: str, extension: str
) -> None:
    files = [tmp_path / f"{name}.{extension}" for name in ("plain", "marked", "again")]
    for path, marked in zip(files, (False, True, True), strict=True):
        scratch = Scratch()
        scratch.marked = marked
        video = VideoFile(path, VideoForm(media_type, 32, 24, Fraction(8), 3), scratch)
        for _ in range(3):
            video.add(NOISE)
        video.finish()
    plain, marked, again = files
    assert not is_marked(plain.read_bytes())
    assert is_marked(marked.read_bytes())
    assert marked.read_bytes() == again.read_bytes()
    assert frames(plain) == frames(marked)
    if extension == "mp4":
        content = marked.read_bytes()
        assert content.startswith(plain.read_bytes()), "the index still comes before the frames"
        assert content.endswith(XMP.encode())
    if extension == "webm":
        assert tags(marked)["DIGITALSOURCETYPE"] == TRAINED_ALGORITHMIC_MEDIA
    if extension == "gif":
        with Image.open(marked) as read:
            assert read.n_frames == 3
        assert b"XMP DataXMP" + XMP.encode() in marked.read_bytes()


def frames(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("media_type", "extension"),
    [("audio/wav", "wav"), ("audio/flac", "flac"), ("audio/mpeg", "mp3"), ("audio/ogg", "ogg")],
)
def test_an_audio_file_has_the_mark_and_the_same_samples(
    tmp_path: Path, media_type: str, extension: str
) -> None:
    plain, marked = (tmp_path / f"{name}.{extension}" for name in ("plain", "marked"))
    write_audio(plain, SAMPLES, 48_000, media_type)
    write_audio(marked, SAMPLES, 48_000, media_type, comment=WRITTEN.text(), marked=True)
    assert not is_marked(plain.read_bytes())
    assert is_marked(marked.read_bytes())
    assert find(marked.read_bytes()) == WRITTEN
    assert packets(plain) == packets(marked)
    if extension == "mp3":
        assert tags(marked)["id3v2_priv.XMP"].startswith("<?xpacket")
    elif extension != "wav":
        assert TRAINED_ALGORITHMIC_MEDIA in tags(marked).values()


def test_the_chunks_of_a_marked_wav_file_fill_it(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, SAMPLES, 48_000, "audio/wav", marked=True)
    content, at, chunks = path.read_bytes(), 12, dict[bytes, bytes]()
    assert int.from_bytes(content[4:8], "little") == len(content) - 8
    while at < len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        chunks[content[at : at + 4]] = content[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    assert chunks[b"_PMX"] == XMP.encode()
    with av.open(str(path)) as container:
        assert container.streams.audio[0].duration == SAMPLES.shape[1]
