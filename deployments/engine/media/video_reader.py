"""Input video files, decoded to frames on demand."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from io import UnsupportedOperation
from math import floor
from mmap import ACCESS_READ, mmap
from typing import BinaryIO

import av
from av.container import InputContainer
from PIL import Image

from deployments.engine.media import isobmff
from deployments.engine.media.container import (
    LIMITED,
    MAX_FRAME_PIXELS,
    InputMedia,
    is_isobmff,
    is_matroska,
)
from deployments.engine.media.images import fit
from deployments.engine.media.shown_frames import ShownFrame, shown_frames
from serve_app.domain.errors import InvalidInput

FORMATS = ("MP4", "WebM", "GIF")
MAX_FRAMES_READ = 10_000  # frames decoded from a file, used or not
MAX_PIXELS_READ = MAX_FRAMES_READ * 1920 * 1080 // 2
"""Pixels decoded from a file, used or not. One core decodes them in some minutes; 10,000 frames of
4096×4096 would take an hour."""
MAX_FPS = 1000


class InputVideo:
    """Video named by an input field.

    Its frames are decoded on demand: decoded images of all frames would need a hundred times the
    file's bytes.
    """

    def __init__(self, media: InputMedia) -> None:
        self._media = media
        self._size: tuple[int, int] | None = None
        self._fps: Fraction | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright and with square pixels."""
        return self._probe()[0]

    @property
    def fps(self) -> Fraction | None:
        """Frames a second; None if the file does not say."""
        return self._probe()[1]

    def frames(self, width: int, height: int, fps: Fraction, most: int) -> list[Image.Image]:
        """Return the frames shown at about 0, 1/fps, 2/fps … seconds, one at least and at most
        ``most``.

        Each is cropped around its centre and scaled to ``width`` × ``height``. Raises
        ``InvalidInput`` naming the field.
        """
        images: list[Image.Image] = []
        size = (width, height)
        shown: tuple[Fraction, ShownFrame] | None = None  # (start in seconds, frame)
        with self._media.open() as container:
            for since, frame in self._decode_frames(container):
                if shown is not None:
                    self._add(images, shown[1], size, min(_nearest(since * fps), most))
                shown = since, frame
                if len(images) >= most:
                    return images
            if shown is not None:  # the last frame is shown as long as the others
                end = shown[0] + 1 / (self.fps or fps)
                self._add(images, shown[1], size, min(max(1, _nearest(end * fps)), most))
        return images

    def _add(
        self, frames: list[Image.Image], frame: ShownFrame, size: tuple[int, int], until: int
    ) -> None:
        """Append ``frame`` until ``frames`` has ``until`` frames."""
        if (missing := until - len(frames)) > 0:
            frames += [fit(frame.image(), *size)] * missing

    def _probe(self) -> tuple[tuple[int, int], Fraction | None]:
        if self._size is None:
            with self._media.open() as container:
                for _, frame in self._decode_frames(container):
                    self._size = frame.size
                    break
                if container.streams.video:
                    stream = container.streams.video[0]
                    rate = stream.average_rate or stream.guessed_rate
                    self._fps = rate if rate and 0 < rate <= MAX_FPS else None
        if self._size is None:
            raise self._media.unread("it has no frames")
        return self._size, self._fps

    def _decode_frames(self, container: InputContainer) -> Iterator[tuple[Fraction, ShownFrame]]:
        """Iterate over (seconds since the first frame, frame)."""
        if not container.streams.video:
            return
        stream = container.streams.video[0]
        if not hasattr(stream, "width"):  # FFmpeg knows no decoder for it
            raise self._media.unread("its video codec is unknown")
        self._check_size(stream.width, stream.height)
        stream.thread_type = "AUTO"
        began: Fraction | None = None
        pixels = 0
        for number, shown in enumerate(shown_frames(container)):
            if number >= MAX_FRAMES_READ:
                message = f"the video has more than {MAX_FRAMES_READ} frames"
                most = {"max_frames": MAX_FRAMES_READ}
                field = self._media.field
                raise InvalidInput.of_field(field, message, "video_duration_too_long", most)
            frame = shown.frame
            self._check_size(frame.width, frame.height)
            pixels += frame.width * frame.height
            if pixels > MAX_PIXELS_READ:
                message = f"the frames of the video have more than {MAX_PIXELS_READ} pixels in all"
                most = {"max_pixels": MAX_PIXELS_READ}
                field = self._media.field
                raise InvalidInput.of_field(field, message, "video_duration_too_long", most)
            at = Fraction(frame.pts or 0) * (frame.time_base or 0)
            began = at if began is None else began
            yield max(at - began, Fraction(0)), shown

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_FRAME_PIXELS:
            message = f"a frame of the video has more than {MAX_FRAME_PIXELS} pixels"
            most = {"max_pixels": MAX_FRAME_PIXELS}
            raise InvalidInput.of_field(self._media.field, message, "image_too_large", most)


def read_video(body: bytes, field: str) -> InputVideo:
    """Open a video file. Raises ``InvalidInput`` naming the field if the file is not a video."""
    type_ = "unsupported_video_format"
    video = InputVideo(InputMedia(body, field, "video", type_, FORMATS, _demuxer))
    _ = video.size
    return video


def first_frame(file: BinaryIO) -> Image.Image:
    """First frame of a video that Darkroom or an app wrote. ``ValueError`` or ``OSError`` if it has
    none."""
    with _open_video(file) as container:
        for frame in shown_frames(container):
            return frame.image()
    raise ValueError("The video has no frames.")


def sampled_frames(file: BinaryIO, most: int) -> Iterator[Image.Image]:
    """At most ``most`` frames of a video that Darkroom or an app wrote, evenly spread from first to
    last. Reads the file twice; only one frame is in memory. ``ValueError`` or ``OSError`` if it
    cannot be read."""
    with _open_video(file) as container:
        count = sum(1 for packet in container.demux(video=0) if packet.size)
    numbers = {round(place * (count - 1) / max(1, most - 1)) for place in range(most)}
    file.seek(0)
    with _open_video(file) as container:
        for number, frame in enumerate(shown_frames(container)):
            if number in numbers:
                yield frame.image()


def _open_video(file: BinaryIO) -> InputContainer:
    """Open a video as ``InputMedia`` does, without reading all of it: it may be large."""
    body = _map_file(file)
    try:
        demuxer = _demuxer(body[:16])
        if demuxer is None:
            raise ValueError(f"The file is not a supported video file ({', '.join(FORMATS)}).")
        if demuxer == "mov" and (why := isobmff.refusal(body)) is not None:
            raise ValueError(f"The video file cannot be read: {why}")
    finally:
        if isinstance(body, mmap):
            body.close()
    return av.open(file, "r", format=demuxer, options=LIMITED)


def _map_file(file: BinaryIO) -> bytes | mmap:
    try:
        return mmap(file.fileno(), 0, access=ACCESS_READ)
    except UnsupportedOperation:  # it is in memory
        body = file.read()
        file.seek(0)
        return body


def _nearest(number: Fraction) -> int:
    """Round to the nearest integer. GIF times are in 1/100 s, so a frame may be slightly late."""
    return floor(number + Fraction(1, 2))


def _demuxer(body: bytes) -> str | None:
    if is_isobmff(body):
        return "mov"
    if is_matroska(body):
        return "matroska"
    return "gif" if body.startswith((b"GIF87a", b"GIF89a")) else None
