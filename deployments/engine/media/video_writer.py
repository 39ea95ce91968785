"""Frames to a clip's file, one after another, so that memory does not grow with the clip.

Never on the engine's thread: a frame takes milliseconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
import torch
from av.audio.stream import AudioStream
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.filter import Graph
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from deployments.clip_form import ClipForm
from serve_app.domain.errors import Unsupported

Pixels = NDArray[np.uint8]  # [height, width, 3], of any size
Samples = NDArray[np.float32]  # [channels, samples], -1 to 1

THREADS = 4
"""Of an encoder. Not the machine's number: how many there are changes the file's bytes."""

BT709 = 1  # of primaries and of transfer, in ITU-T H.273, which both codecs follow


class ClipWriter:
    """Writes one file, on one thread at a time. ``with`` it, or end it by ``finish`` or
    ``give_up``; given up, or left by an error, the file is broken.

    Frames of another shape than the form's lose their edges, and all are scaled to its size.
    """

    def __init__(self, path: Path, form: ClipForm, sound_rate: int | None = None) -> None:
        """``sound_rate``: samples a second of the sound that comes with it; None: it has none.
        ``Unsupported`` where the file cannot be of that type, or have sound."""
        self._form = form
        self._kind = kind = _kind(form.media_type)
        if sound_rate is not None and kind.sound is None:
            raise Unsupported(f"A file of {form.media_type} has no sound.")
        # Without `bitexact`, WebM gets a random number. Sound that comes after the last frame still
        # lies beside the first: what is encoded waits for it, however long it takes.
        settings = {"fflags": "bitexact", "max_interleave_delta": "0", **kind.settings}
        self._container: OutputContainer = av.open(
            str(path), "w", format=kind.container, options=settings
        )
        self._video = self._add_video()
        self._sound = self._add_sound(sound_rate)
        self._graph: Graph | None = None
        self._frames = 0
        self._samples = 0

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.give_up()

    def finish(self) -> None:
        """The file is complete when it returns."""
        try:
            self._flush()
        finally:
            self._container.close()

    def give_up(self) -> None:
        with contextlib.suppress(av.FFmpegError):  # its folder may have gone
            self._container.close()

    @property
    def frames(self) -> int:
        """Written so far."""
        return self._frames

    def write(self, pixels: Pixels) -> None:
        """The next frame."""
        form = self._form
        frame = VideoFrame.from_ndarray(_middle(pixels, form.width, form.height), format="rgb24")
        frame.pts, frame.time_base = self._frames, 1 / form.fps
        frame.pict_type = PictureType.NONE
        self._frames += 1
        if self._kind.palette:
            for mapped in self._mapped(frame):
                self._container.mux(self._video.encode(mapped))
            return
        self._container.mux(self._video.encode(self._converted(frame)))

    def write_sound(self, samples: Samples) -> None:
        """What follows of the sound. Written as the frames come, it lies beside them."""
        if self._sound is None:
            raise Unsupported("The clip was begun without sound.")
        layout = "mono" if len(samples) == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples, dtype=np.float32), format="fltp", layout=layout
        )
        frame.sample_rate = self._sound.rate or 0
        frame.pts, frame.time_base = self._samples, Fraction(1, frame.sample_rate)
        self._samples += samples.shape[1]
        self._container.mux(self._sound.encode(frame))

    def _add_video(self) -> VideoStream:
        form, kind = self._form, self._kind
        try:
            stream = self._container.add_stream(kind.codec, rate=form.fps)
        except UnknownCodecError:
            raise Unsupported(
                f"The FFmpeg of this machine was built without {kind.codec}, which writes "
                f"{form.media_type}. Ask for another output_format."
            ) from None
        if not isinstance(stream, VideoStream):
            raise TypeError(f"{kind.codec} is no codec of frames.")
        stream.width, stream.height, stream.pix_fmt = form.width, form.height, kind.pixels
        context = stream.codec_context
        stream.time_base = context.time_base = 1 / form.fps
        context.thread_count = THREADS
        stream.options = dict[str, object](kind.quality(form))
        if not kind.palette:
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries = context.color_trc = BT709
        return stream

    def _add_sound(self, rate: int | None) -> AudioStream | None:
        if rate is None or self._kind.sound is None:
            return None
        stream = self._container.add_stream(self._kind.sound, rate=rate)
        if not isinstance(stream, AudioStream):
            raise TypeError(f"{self._kind.sound} is no codec of sound.")
        stream.layout = "stereo"
        return stream

    def _converted(self, frame: VideoFrame) -> VideoFrame:
        """In the colours that players take a clip of this size to have."""
        made = frame.reformat(
            self._form.width,
            self._form.height,
            self._kind.pixels,
            src_colorspace=Colorspace.ITU709,
            dst_colorspace=Colorspace.ITU709,
            interpolation=Interpolation.BICUBIC,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )
        made.pts, made.time_base = frame.pts, frame.time_base
        return made

    def _mapped(self, frame: VideoFrame | None) -> list[VideoFrame]:
        """Each frame has a palette of its own: one for all would need all frames first."""
        if self._graph is None:
            if frame is None:
                return []
            self._graph = _palettes(self._form, frame)
        self._graph.push(frame)
        made: list[VideoFrame] = []
        while True:
            try:
                pulled = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return made
            if isinstance(pulled, VideoFrame):
                made.append(pulled)

    def _flush(self) -> None:
        if self._kind.palette:
            for mapped in self._mapped(None):
                self._container.mux(self._video.encode(mapped))
        self._container.mux(self._video.encode(None))
        if self._sound is not None:
            self._container.mux(self._sound.encode(None))


@dataclass(frozen=True, slots=True)
class _Kind:
    """How files of one media type are written."""

    container: str
    codec: str
    pixels: str
    quality: Callable[[ClipForm], dict[str, str]]
    sound: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    palette: bool = False


def _x264(form: ClipForm) -> dict[str, str]:
    preset = {"fast": "veryfast", "balanced": "medium", "small": "slow"}[form.effort]
    crf = {"low": "28", "medium": "23", "high": "18", "maximum": "12"}[form.quality]
    settings = {"preset": preset, "crf": crf}
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        # There, x264 (core 165) plans its bits with what happens to lie behind a row's end in
        # memory, unless 256 divides the width: equal frames became other files. What is computed
        # with AVX2 is the same otherwise.
        settings["x264-params"] = "asm=AVX2"
    return settings


def _vp9(form: ClipForm) -> dict[str, str]:
    speed = {"fast": "6", "balanced": "4", "small": "2"}[form.effort]
    crf = {"low": "40", "medium": "34", "high": "28", "maximum": "20"}[form.quality]
    return {"deadline": "good", "cpu-used": speed, "crf": crf, "b": "0", "row-mt": "1"}


def _gif(_form: ClipForm) -> dict[str, str]:
    return {}


_KINDS: Mapping[str, _Kind] = {
    # The index first, so that a player begins before it has the whole file.
    "video/mp4": _Kind("mp4", "libx264", "yuv420p", _x264, "aac", {"movflags": "+faststart"}),
    "video/webm": _Kind("webm", "libvpx-vp9", "yuv420p", _vp9, "libopus"),
    "image/gif": _Kind("gif", "gif", "pal8", _gif, None, {"loop": "0"}, palette=True),
}


def _kind(media_type: str) -> _Kind:
    if media_type not in _KINDS:
        raise Unsupported(f"Clips are not written as {media_type}.")
    return _KINDS[media_type]


def _palettes(form: ClipForm, first: VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=first.width, height=first.height, format=first.format, time_base=1 / form.fps
    )
    scale = graph.add("scale", f"{form.width}:{form.height}:flags=bicubic")
    split = graph.add("split")
    palette = graph.add("palettegen", "stats_mode=single")
    use = graph.add("paletteuse", "new=1")
    sink = graph.add("buffersink")
    source.link_to(scale)
    scale.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph


def _middle(pixels: Pixels, width: int, height: int) -> Pixels:
    """What of the frame has the shape of width × height, in whole pixels."""
    high, wide = pixels.shape[:2]
    scale = min(wide / width, high / height)
    across, down = min(wide, round(width * scale)), min(high, round(height * scale))
    left, top = (wide - across) // 2, (high - down) // 2
    return np.ascontiguousarray(pixels[top : top + down, left : left + across])
