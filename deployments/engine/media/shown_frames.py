"""Frames of an opened video as players show them: upright, with square pixels, on white where they
are transparent, and HDR as SDR."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, ColorTrc
from av.video.stream import VideoStream
from PIL import Image

from darkroom.images import put_on_white, turned_size
from deployments.engine.media.container import LIMITED, MAX_FRAME_PIXELS
from deployments.engine.media.images import stretch

_ALPHA_DECODERS: Mapping[str, str] = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these codecs leave the transparency out."""

_TURNS: Mapping[tuple[int, ...], Image.Transpose] = {
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
}
"""Signs of a, b, c, d of a display matrix (ISO/IEC 14496-12, 6.2.2). Others turn nothing."""

MAX_KEPT_PIXELS = 2**27
"""Pixels of frames that wait for Python's collector, 8 of the largest. In PyAV, a frame whose side
data was read refers to itself: 200 frames of a GIF of 200 kB took 2.8 GB."""


@dataclass(frozen=True, slots=True)
class ShownFrame:
    """Decoded frame. Its image is made on demand, while the video is open."""

    frame: VideoFrame
    _ratio: Fraction  # width of a pixel by its height
    _turn: Image.Transpose | None
    _to_sdr: ToSdr

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown. ``ValueError`` if it is too large."""
        return turned_size(self._square(), self._turn)

    def image(self) -> Image.Image:
        """Image in mode RGB. Raises as FFmpeg does, or ``ValueError``."""
        frame = self.frame
        if frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67):
            frame = self._to_sdr.convert(frame)
        if any(component.is_alpha for component in frame.format.components):
            pixels = frame.to_ndarray(format="rgba", src_colorspace=_matrix(frame))
            image = Image.fromarray(pixels)
            image = put_on_white(image.convert("RGB"), image.getchannel("A"))
        else:
            image = frame.to_image(src_colorspace=_matrix(frame))
        image = stretch(image, *self._square())
        return image if self._turn is None else image.transpose(self._turn)

    def _square(self) -> tuple[int, int]:
        """Width and height with square pixels, before it is turned."""
        width, height = max(1, round(self.frame.width * self._ratio)), self.frame.height
        if width * height > MAX_FRAME_PIXELS:
            raise ValueError(f"a frame has more than {MAX_FRAME_PIXELS} square pixels")
        return width, height


_UNSPECIFIED = 2  # matrix of a frame, as in ITU-T H.273


def _matrix(frame: VideoFrame) -> Colorspace | None:
    """Matrix from which a frame's colours are made; None: as it says. One that says nothing has
    that of HD or of SD by its size, as in mpv, Chromium and VLC; FFmpeg takes SD's for all."""
    if frame.colorspace != _UNSPECIFIED or frame.format.is_rgb:
        return None
    is_hd = frame.width >= 1280 or frame.height > 576
    return Colorspace.ITU709 if is_hd else Colorspace.ITU601


class _Turns:
    """Turns of the frames of a video. Side data is read only where the rotation changes: see
    ``MAX_KEPT_PIXELS``."""

    def __init__(self) -> None:
        self._last: tuple[int, Image.Transpose | None] | None = None

    def of(self, frame: VideoFrame) -> Image.Transpose | None:
        if self._last is None or self._last[0] != frame.rotation:
            self._last = frame.rotation, _turn(frame)
        return self._last[1]


def _turn(frame: VideoFrame) -> Image.Transpose | None:
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    signs = np.sign(np.frombuffer(bytes(matrix), np.int32)[[0, 1, 3, 4]])
    return _TURNS.get(tuple(signs.tolist()))


def shown_frames(container: InputContainer) -> Iterator[ShownFrame]:
    """Decode the frames of the first video stream in order; none if there is none."""
    if not container.streams.video:
        return
    stream = container.streams.video[0]
    ratio, turns, to_sdr = stream.sample_aspect_ratio or Fraction(1), _Turns(), ToSdr()
    for frame in _decode_frames(container, stream):
        yield ShownFrame(frame, ratio, turns.of(frame), to_sdr)


def _decode_frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    decoder = _ALPHA_DECODERS.get(stream.codec_context.name)
    if decoder is None or stream.metadata.get("alpha_mode") != "1":
        yield from container.decode(stream)
        return
    context = av.CodecContext.create(decoder, "r")
    if not isinstance(context, av.VideoCodecContext):
        raise TypeError(f"{decoder} is not a video codec.")
    context.options = {"max_pixels": LIMITED["max_pixels"]}
    for packet in container.demux(stream):
        yield from context.decode(packet)


class ToSdr:
    """Converter of frames of PQ or HLG to BT.709, by FFmpeg's ``scale`` (from FFmpeg 8 on).

    Its table takes 5 s of a core, so all frames of a video must have the same settings.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._settings: tuple[Any, ...] = ()
        self._kept_pixels = 0

    def convert(self, frame: VideoFrame) -> VideoFrame:
        settings = _settings(frame)
        self._kept_pixels += frame.width * frame.height
        if self._kept_pixels > MAX_KEPT_PIXELS:
            self._kept_pixels = 0
            gc.collect()
        if self._graph is None:
            self._graph, self._settings = _graph(frame), settings
        if settings != self._settings:
            raise ValueError("its size or its HDR settings change between frames")
        self._graph.push(frame)
        converted = self._graph.pull()
        if not isinstance(converted, VideoFrame):
            raise TypeError("The filters of a video returned no video.")
        return converted


def _graph(frame: VideoFrame) -> Graph:
    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=Fraction(1, 1000),
        ),
        # Metadata of each scene would change the table from frame to frame.
        graph.add("sidedata", "mode=delete:type=DYNAMIC_HDR_PLUS"),
        graph.add("scale", "out_transfer=bt709:out_primaries=bt709:intent=perceptual"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ).configure()
    return graph


def _settings(frame: VideoFrame) -> tuple[Any, ...]:
    """What the table depends on."""
    light = ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
    side_data: list[Any] = [frame.side_data.get(name) for name in light]
    return (
        frame.width,
        frame.height,
        frame.format.name,
        frame.colorspace,
        frame.color_range,
        frame.color_primaries,
        frame.color_trc,
        *(None if entry is None else bytes(entry) for entry in side_data),
    )
