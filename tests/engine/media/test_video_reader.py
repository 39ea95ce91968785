"""Videos that inputs name are read frame by frame, and nothing about them is trusted."""

import contextlib
import gc
import struct
import time
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from PIL import Image

from deployments.engine.media import shown_frames, video_reader
from deployments.engine.media.video_format import VideoForm
from deployments.engine.media.video_reader import first_frame, read_video
from deployments.engine.media.video_writer import VideoWriter
from serve_app.domain.errors import InvalidInput

TYPES = ("video/mp4", "video/webm", "image/gif")


def video(tmp_path, media_type="video/mp4", frames=8, fps=8, size=(64, 48), audio_rate=None):
    """Each frame is brighter than the one before; its left half is red."""
    form = VideoForm(media_type, *size, Fraction(fps), frames, "maximum", "fast")
    path = tmp_path / "video"
    with VideoWriter(path, form, audio_rate) as writer:
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), 255 * number // max(1, frames - 1), np.uint8)
            pixels[:, : size[0] // 2] = (200, 20, 20)
            writer.write(pixels)
    return path.read_bytes()


def levels(images):
    """How bright the right half of each is, 0 to 1."""
    return [np.asarray(image)[:, image.width * 3 // 4 :].mean() / 255 for image in images]


@pytest.mark.parametrize("media_type", TYPES)
def test_the_frames_of_a_video_are_read_in_order_and_in_the_size_that_is_asked_for(
    tmp_path, media_type
):
    clip = read_video(video(tmp_path, media_type), "video_url")
    assert clip.size == (64, 48)
    assert clip.fps == pytest.approx(8, rel=0.05)
    frames = clip.frames(32, 16, Fraction(8), 100)
    assert {frame.size for frame in frames} == {(32, 16)}
    assert levels(frames) == pytest.approx([n / 7 for n in range(8)], abs=0.05)
    red = np.asarray(frames[-1])[:, :8].mean(axis=(0, 1))
    assert red == pytest.approx([200, 20, 20], abs=12)


def test_another_pace_takes_frames_out_or_repeats_them(tmp_path):
    clip = read_video(video(tmp_path, frames=8, fps=8), "video_url")
    assert levels(clip.frames(32, 16, Fraction(4), 100)) == pytest.approx(
        [0, 2 / 7, 4 / 7, 6 / 7], abs=0.05
    )
    doubled = clip.frames(32, 16, Fraction(16), 100)
    assert levels(doubled) == pytest.approx([n // 2 / 7 for n in range(16)], abs=0.05)
    assert len(clip.frames(32, 16, Fraction(16), 5)) == 5


def test_one_that_begins_late_begins_with_its_first_frame(tmp_path):
    path = tmp_path / "late.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 80 * number, np.uint8))
            frame.pts, frame.time_base = 100 + number, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = read_video(path.read_bytes(), "video_url").frames(64, 48, Fraction(8), 100)
    assert levels(frames) == pytest.approx([0, 80 / 255, 160 / 255, 240 / 255], abs=0.05)


MATRICES = {
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
}
"""a, b, c, d of a track's matrix (ISO/IEC 14496-12, 6.2.2) and what they do."""


@pytest.mark.parametrize("matrix", MATRICES)
def test_one_of_a_camera_that_was_turned_or_mirrored_is_upright(tmp_path, matrix):
    body = bytearray(video(tmp_path))
    plain = read_video(bytes(body), "video_url").frames(64, 48, Fraction(8), 8)[-1]
    a, b, c, d = (entry << 16 for entry in matrix)
    at = body.index(b"tkhd") + 4 + 40
    body[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    clip, expected = read_video(bytes(body), "video_url"), plain.transpose(MATRICES[matrix])
    assert clip.size == expected.size
    assert clip.frames(*clip.size, Fraction(8), 8)[-1] == expected


def write_video(tmp_path, frames, codec="libx264", form="mp4", **settings):
    """A video of these frames. ``settings``: attributes of the encoder."""
    path = tmp_path / f"video.{form}"
    options = settings.pop("options", {})
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=8, options=options)
        stream.width, stream.height = frames[0].width, frames[0].height
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for frame in frames:
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def test_its_pixels_become_square(tmp_path):
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32] = 255
    frame = av.VideoFrame.from_ndarray(pixels)
    body = write_video(tmp_path, [frame], pix_fmt="yuv420p", sample_aspect_ratio=Fraction(2))
    clip = read_video(body, "video_url")
    assert clip.size == (128, 48)
    shown = np.asarray(clip.frames(128, 48, Fraction(8), 1)[0])
    assert (shown[:, 32].mean(), shown[:, 96].mean()) == pytest.approx((255, 0), abs=3)


def test_pixels_so_wide_that_a_frame_becomes_too_large_are_refused(tmp_path):
    frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))
    body = bytearray(
        write_video(tmp_path, [frame], pix_fmt="yuv420p", sample_aspect_ratio=Fraction(2))
    )
    at = body.index(b"pasp") + 4
    body[at : at + 8] = struct.pack(">II", 2**30, 1)
    with pytest.raises(InvalidInput, match="square pixels"):
        read_video(bytes(body), "video_url")
    with pytest.raises(ValueError, match="square pixels"):
        first_frame(BytesIO(body))


def test_frames_of_unequal_length_are_shown_as_long_as_they_are(tmp_path):
    frames = [av.VideoFrame.from_ndarray(np.full((47, 63, 3), n * 80, np.uint8)) for n in range(4)]
    for frame, start in zip(frames, (0, 1, 6, 7), strict=True):
        frame.pts, frame.time_base = start, Fraction(1, 8)
    clip = read_video(write_video(tmp_path, frames, pix_fmt="yuv444p"), "video_url")
    assert clip.size == (63, 47)
    shown = levels(clip.frames(63, 47, Fraction(8), 8))
    expected = [index * 80 / 255 for index in (0, 1, 1, 1, 1, 1, 2, 3)]
    assert shown == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("codec", "form", "pixels"),
    [
        ("libvpx-vp9", "webm", "yuva420p"),
        ("png", "mov", "rgba"),
        ("prores_ks", "mov", "yuva444p10"),
    ],
)
def test_it_is_on_white_where_it_is_transparent(tmp_path, codec, form, pixels):
    shown = np.zeros((48, 64, 4), np.uint8)
    shown[:, :32] = (200, 20, 20, 255)
    frames = [av.VideoFrame.from_ndarray(shown, "rgba")] * 2
    body = write_video(tmp_path, frames, codec, form, pix_fmt=pixels)
    read = np.asarray(read_video(body, "video_url").frames(64, 48, Fraction(8), 1)[0])
    assert read[24, 8] == pytest.approx([200, 20, 20], abs=6)
    assert read[24, 56] == pytest.approx([255, 255, 255], abs=2)


@pytest.mark.parametrize(
    ("size", "written"),
    [
        ((1280, 48), Colorspace.ITU709),
        ((64, 578), Colorspace.ITU709),
        ((64, 48), Colorspace.ITU601),
    ],
    ids=["wide", "high", "small"],
)
@pytest.mark.parametrize("pixels", ["yuv420p", "yuva420p"])
def test_colours_that_are_not_described_are_those_of_hd_or_sd_by_their_size(
    tmp_path, size, written, pixels
):
    (width, height), shown = size, (200, 20, 20, 255)
    frame = av.VideoFrame.from_ndarray(np.full((height, width, 4), shown, np.uint8), "rgba")
    frame = frame.reformat(format=pixels, dst_colorspace=written)
    frame.colorspace = 2  # as if it had not been converted
    body = write_video(tmp_path, [frame], "libvpx-vp9", "webm", pix_fmt=pixels)
    read = np.asarray(read_video(body, "video_url").frames(width, height, Fraction(8), 1)[0])
    assert read[24, 32] == pytest.approx(shown[:3], abs=4)


def hdr(tmp_path, transfer, signal):
    """A video in BT.2020 with four grey bars, whose light comes from ``signal``, 0 to 1."""
    bars = np.repeat((np.array(signal) * 65_535).astype(np.uint16), 16)
    pixels = np.ascontiguousarray(np.broadcast_to(bars[None, :, None], (48, 64, 3)))
    frame = av.VideoFrame.from_ndarray(pixels, "rgb48le")
    frame = frame.reformat(format="yuv420p10le", dst_colorspace=9)
    frame.colorspace, frame.color_trc, frame.color_primaries = 9, transfer, 9
    settings = {"colorspace": 9, "color_trc": transfer, "color_primaries": 9}
    return write_video(tmp_path, [frame], "libx265", pix_fmt="yuv420p10le", **settings)


@pytest.mark.long
@pytest.mark.parametrize(
    ("transfer", "signal"),
    [(16, (0, 0.44, 0.58, 0.9)), (18, (0, 0.5, 0.75, 1))],  # PQ and HLG
    ids=["PQ", "HLG"],
)
def test_hdr_becomes_sdr_with_its_highlights(tmp_path, transfer, signal):
    clip = read_video(hdr(tmp_path, transfer, signal), "video_url")
    read = np.asarray(clip.frames(64, 48, Fraction(8), 1)[0])
    black, middle, white, highlight = (int(read[24, at].mean()) for at in (8, 24, 40, 56))
    assert black < 5
    assert 80 < middle < 140
    assert 145 < white < 200
    assert white + 40 < highlight <= 255


class Unchanged:
    """In place of FFmpeg's filters, whose table takes seconds."""

    def push(self, frame):
        self.frame = frame

    def pull(self):
        return self.frame


@pytest.mark.parametrize("changed", [{"color_trc": 18}, {"color_range": 2}, {}])
def test_hdr_whose_settings_change_needs_no_second_table(monkeypatch, changed):
    tables = []
    monkeypatch.setattr(shown_frames, "_graph", lambda _: tables.append(1) or Unchanged())
    first, second = (av.VideoFrame(64, 48, "yuv420p10le") for _ in range(2))
    for name, value in changed.items():
        setattr(second, name, value)
    convert = shown_frames.ToSdr().convert
    assert convert(first) is first
    if changed:
        with pytest.raises(ValueError, match="change between frames"):
            convert(second)
    else:
        assert convert(second) is second
    assert len(tables) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"#EXTM3U\nfile:///etc/passwd",
        b"ffconcat version 1.0\nfile /etc/passwd",
        b"\x89PNG\r\n\x1a\n",
        b"\0\0\0\x18ftypisom" + bytes(100),
        b"\x1a\x45\xdf\xa3" + bytes(100),
        b"GIF89a",
    ],
)
def test_what_is_no_video_is_refused_by_the_name_of_its_field(body):
    with pytest.raises(InvalidInput) as raised:
        read_video(body, "video_url")
    (problem,) = raised.value.problems
    assert (problem.loc, problem.type) == (("body", "video_url"), "unsupported_video_format")


def test_half_a_video_is_refused_or_read_as_far_as_it_goes(tmp_path):
    body = video(tmp_path, "video/webm", frames=24)
    reported = set()
    for share in range(1, 10):
        try:
            clip = read_video(body[: len(body) * share // 10], "video_url")
            reported.add(len(clip.frames(32, 16, Fraction(8), 100)) <= 24)
        except InvalidInput as error:
            reported.add(error.problems[0].type)
    assert reported <= {True, "unsupported_video_format"}


def test_an_audio_file_is_no_video(tmp_path):
    path = tmp_path / "audio.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=24000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp")
        frame.sample_rate = 24000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(InvalidInput, match="no frames"):
        read_video(path.read_bytes(), "video_url")


def test_what_is_too_large_or_too_long_is_refused(tmp_path, monkeypatch):
    body = video(tmp_path)
    monkeypatch.setattr(video_reader, "MAX_FRAMES_READ", 4)
    with pytest.raises(InvalidInput, match="more than 4 frames"):
        read_video(body, "video_url").frames(32, 16, Fraction(8), 100)
    assert len(read_video(body, "video_url").frames(32, 16, Fraction(8), 3)) == 3
    monkeypatch.setattr(video_reader, "MAX_FRAME_PIXELS", 1000)
    with pytest.raises(InvalidInput, match="more than 1000 pixels"):
        read_video(body, "video_url")


def claiming(body, count, size=1):
    """An MP4 that claims so many samples in the bytes that it has."""
    body = bytearray(body)
    table = body.index(b"stsz") + 8
    body[table : table + 8] = struct.pack(">II", size, count)
    runs = body.index(b"stts") + 12
    body[runs : runs + 8] = struct.pack(">II", count, 512)
    chunks = body.index(b"stsc") + 12
    body[chunks : chunks + 12] = struct.pack(">III", 1, count, 1)
    return bytes(body)


def fragment(count):
    """A fragment of an MP4 whose samples all have the default size."""

    def box(kind, *parts):
        content = b"".join(parts)
        return struct.pack(">I", 8 + len(content)) + kind + content

    run = box(b"trun", struct.pack(">III", 1, count, 100))
    return box(b"moof", box(b"traf", run))


@pytest.mark.parametrize("how", ["table", "fragment"])
def test_many_samples_in_a_small_file_are_refused_before_memory_is_taken(tmp_path, how):
    body = video(tmp_path)
    body = claiming(body, 50_000_000) if how == "table" else body + fragment(50_000_000)
    began = time.process_time()
    with pytest.raises(InvalidInput, match="claims more than 2000000 samples") as raised:
        read_video(body, "video_url")
    assert raised.value.problems[0].loc == ("body", "video_url")
    assert time.process_time() - began < 1


@pytest.mark.parametrize("size", [(16_000, 16_000), (65_535, 65_535)])
def test_a_header_with_a_huge_size_is_refused(size):
    body = b"GIF89a" + struct.pack("<HH", *size) + b"\xf0\0\0" + bytes(6)
    body += b"\x2c" + struct.pack("<HHHH", 0, 0, *size) + b"\0\x02\x02\x4c\x01\0\x3b"
    with pytest.raises(InvalidInput) as raised:
        read_video(body, "video_url")
    assert raised.value.problems[0].loc == ("body", "video_url")


def test_an_mp4_header_with_a_huge_size_is_refused(tmp_path):
    body = bytearray(video(tmp_path))
    at = body.rindex(b"avc1") + 4 + 24  # the first one names the kind of file
    body[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    with contextlib.suppress(InvalidInput):  # or the true size of the frames counts
        assert read_video(bytes(body), "video_url").size[1] == 48


def test_frames_are_freed_while_a_video_is_read(tmp_path):
    def living():
        return sum(isinstance(instance, av.VideoFrame) for instance in gc.get_objects())

    body, before = video(tmp_path, frames=40), living()
    gc.disable()  # it would come after some hundred objects, which may be frames of 64 MB
    try:
        assert len(read_video(body, "video_url").frames(32, 16, Fraction(8), 40)) == 40
        assert living() - before < 10
    finally:
        gc.enable()


def test_a_video_of_a_moment_has_a_frame(tmp_path):
    body = video(tmp_path, frames=1, fps=60)
    assert len(read_video(body, "video_url").frames(32, 16, Fraction(8), 100)) == 1


@pytest.mark.parametrize(
    ("depth", "named"), [(20, "in more than 16 others"), (50_000, "16 others")]
)
def test_boxes_in_many_boxes_are_refused(tmp_path, depth, named):
    boxes = b"".join(struct.pack(">I", 8 * n) + b"moov" for n in range(depth, 0, -1))
    with pytest.raises(InvalidInput, match=named):
        read_video(video(tmp_path) + boxes, "video_url")


def test_frames_are_decoded_up_to_a_number_of_pixels_in_all(tmp_path, monkeypatch):
    body = video(tmp_path)
    monkeypatch.setattr(video_reader, "MAX_PIXELS_READ", 4 * 64 * 48)
    with pytest.raises(InvalidInput, match="pixels in all"):
        read_video(body, "video_url").frames(32, 16, Fraction(8), 100)
    assert len(read_video(body, "video_url").frames(32, 16, Fraction(8), 3)) == 3
