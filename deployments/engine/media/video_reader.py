"""Files of clips to frames, as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import floor

from av.container import InputContainer
from av.video.frame import VideoFrame
from PIL import Image

from deployments.engine.given_media import GivenMedia, is_isobmff, is_matroska
from deployments.engine.media import fit
from serve_app.domain.errors import InvalidInput

FORMATS = ("MP4", "WebM", "GIF")
MOST_PIXELS = 4096 * 4096  # of a frame
MOST_READ = 10_000  # frames of the file, whichever are taken
MOST_FPS = 1000


class GivenClip:
    """A clip that an input names. Its frames are decoded when they are asked for: as pictures, all
    of them would need a hundred times the file's bytes."""

    def __init__(self, media: GivenMedia) -> None:
        self._media = media
        self._first: Image.Image | None = None
        self._fps: Fraction | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright."""
        return self._begun()[0].size

    @property
    def fps(self) -> Fraction | None:
        """Frames a second; None: the file does not tell."""
        return self._begun()[1]

    def frames(self, width: int, height: int, fps: Fraction, most: int) -> list[Image.Image]:
        """Those that are shown at about 0, 1/fps, 2/fps … seconds, ``most`` at most, each the
        middle of it in that size. ``InvalidInput`` names the field."""
        made: list[Image.Image] = []
        size = (width, height)
        shown: tuple[Fraction, VideoFrame] | None = None  # since when it is
        with self._media.opened() as container:
            for since, frame in self._decoded(container):
                if shown is not None:
                    self._add(made, shown[1], size, min(_nearest(since * fps), most))
                shown = since, frame
                if len(made) >= most:
                    return made
        if shown is not None:  # for as long as the others
            end = shown[0] + 1 / (self.fps or fps)
            self._add(made, shown[1], size, min(_nearest(end * fps), most))
        return made

    def _add(
        self, made: list[Image.Image], frame: VideoFrame, size: tuple[int, int], until: int
    ) -> None:
        """``frame`` for each number below ``until`` that has none."""
        if (missing := until - len(made)) > 0:
            made += [fit(_upright(frame), *size)] * missing

    def _begun(self) -> tuple[Image.Image, Fraction | None]:
        if self._first is None:
            with self._media.opened() as container:
                for _, frame in self._decoded(container):
                    self._first = _upright(frame)
                    break
                if container.streams.video:
                    stream = container.streams.video[0]
                    told = stream.average_rate or stream.guessed_rate
                    self._fps = told if told and 0 < told <= MOST_FPS else None
        if self._first is None:
            raise self._media.unread("it has no frames")
        return self._first, self._fps

    def _decoded(self, container: InputContainer) -> Iterator[tuple[Fraction, VideoFrame]]:
        """Each with the seconds since the first."""
        if not container.streams.video:
            return
        stream = container.streams.video[0]
        self._check_size(stream.width, stream.height)
        stream.thread_type = "AUTO"
        began: Fraction | None = None
        for number, frame in enumerate(container.decode(stream)):
            if number >= MOST_READ:
                message = f"the clip has more than {MOST_READ} frames"
                most = {"max_frames": MOST_READ}
                field = self._media.field
                raise InvalidInput.of_field(field, message, "video_duration_too_long", most)
            self._check_size(frame.width, frame.height)
            at = Fraction(frame.pts or 0) * (frame.time_base or 0)
            began = at if began is None else began
            yield max(at - began, Fraction(0)), frame

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MOST_PIXELS:
            message = f"a frame of the clip has more than {MOST_PIXELS} pixels"
            most = {"max_pixels": MOST_PIXELS}
            raise InvalidInput.of_field(self._media.field, message, "image_too_large", most)


def read_clip(body: bytes, field: str) -> GivenClip:
    """``InvalidInput`` names the field of a file that is no clip."""
    type_ = "unsupported_video_format"
    clip = GivenClip(GivenMedia(body, field, "clip", type_, FORMATS, _demuxer))
    _ = clip.size
    return clip


def _upright(frame: VideoFrame) -> Image.Image:
    picture = frame.to_image()
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture


def _nearest(number: Fraction) -> int:
    """A GIF tells times in hundredths of a second, so a frame may come a little late."""
    return floor(number + Fraction(1, 2))


def _demuxer(body: bytes) -> str | None:
    if is_isobmff(body):
        return "mov"
    if is_matroska(body):
        return "matroska"
    return "gif" if body.startswith((b"GIF87a", b"GIF89a")) else None
