"""Video files, written frame by frame, so that memory does not grow with the video's length.

Never used on the engine's thread: a frame takes milliseconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

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
from PIL import Image

from deployments.engine.media.audio import Soundtrack
from deployments.engine.media.images import fit
from deployments.engine.media.scratch import Scratch
from deployments.engine.media.video_format import VideoForm
from deployments.engine.media.xmp import add_xmp
from serve_app.domain.errors import PipelineFailed, Unsupported
from serve_app.domain.media.marking import TAG, TRAINED_ALGORITHMIC_MEDIA, XMP

Pixels = NDArray[np.uint8]  # [height, width, 3], of any size
Samples = NDArray[np.float32]  # [channels, samples], -1 to 1

THREADS = 4
"""Threads of an encoder. Not the machine's number: it would change the file's bytes."""

BT709 = 1  # code of primaries and transfer in ITU-T H.273, which both codecs follow


class VideoWriter:
    """Writer of one file, on one thread at a time.

    Use it in ``with``, or end it with ``finish`` or ``give_up``. After ``give_up`` or an error, the
    file is unusable. Frames with another aspect ratio than the form's are cropped at the edges, and
    all frames are scaled to the form's size.
    """

    def __init__(
        self,
        path: Path,
        form: VideoForm,
        audio_rate: int | None = None,
        comment: str = "",
        *,
        marked: bool = False,
    ) -> None:
        """``audio_rate``: samples a second of the audio track; None for a video without audio.
        ``comment``: for the file's tags. ``marked``: the file says that it is AI-generated.

        Raises ``Unsupported`` when the form's media type cannot be written or cannot have audio.
        """
        self._form = form
        self._kind = kind = _kind(form.media_type)
        if audio_rate is not None and kind.audio is None:
            raise Unsupported(
                f"A file of {form.media_type} cannot have audio. Ask for another output_format."
            )
        # Without `bitexact`, WebM gets a random number. Interleaving waits without limit, so that
        # audio that is written after the last frame is stored beside the first frame.
        settings = {"fflags": "bitexact", "max_interleave_delta": "0", **kind.settings}
        self._container: OutputContainer = av.open(
            str(path), "w", format=kind.container, options=settings
        )
        if comment:
            self._container.metadata["comment"] = comment
        if marked and kind.container == "webm":
            self._container.metadata[TAG] = TRAINED_ALGORITHMIC_MEDIA
        self._path, self._marked = path, marked
        self._video = self._add_video()
        self._audio = self._add_audio(audio_rate)
        self._graph: Graph | None = None
        self._frames = 0
        self._samples = 0

    def __enter__(self) -> VideoWriter:
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
            self.abort()

    def finish(self) -> None:
        """Complete and close the file."""
        try:
            self._flush()
        finally:
            self._container.close()
        if self._marked:
            add_xmp(self._path, self._form.media_type, XMP)

    def abort(self) -> None:
        with contextlib.suppress(av.FFmpegError):  # its folder may have been deleted
            self._container.close()

    @property
    def frames(self) -> int:
        """Number of frames written so far."""
        return self._frames

    def write(self, pixels: Pixels) -> None:
        """Write the next frame."""
        form = self._form
        frame = VideoFrame.from_ndarray(_middle(pixels, form.width, form.height), format="rgb24")
        frame.pts, frame.time_base = self._frames, 1 / form.fps
        frame.pict_type = PictureType.NONE
        self._frames += 1
        if self._kind.palette:
            for mapped in self._map_to_palette(frame):
                self._container.mux(self._video.encode(mapped))
            return
        self._container.mux(self._video.encode(self._convert_colours(frame)))

    def write_audio(self, samples: Samples) -> None:
        """Write the next audio samples. They are stored beside the frames of the same time."""
        if self._audio is None:
            raise Unsupported("This video was started without an audio track.")
        layout = "mono" if len(samples) == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples, dtype=np.float32), format="fltp", layout=layout
        )
        frame.sample_rate = self._audio.rate or 0
        frame.pts, frame.time_base = self._samples, Fraction(1, frame.sample_rate)
        self._samples += samples.shape[1]
        self._container.mux(self._audio.encode(frame))

    def _add_video(self) -> VideoStream:
        form, kind = self._form, self._kind
        try:
            stream = self._container.add_stream(kind.codec, rate=form.fps)
        except UnknownCodecError:
            raise Unsupported(
                f"FFmpeg on this machine was built without {kind.codec}, which is needed for "
                f"{form.media_type}. Ask for another output_format."
            ) from None
        if not isinstance(stream, VideoStream):
            raise TypeError(f"{kind.codec} is not a video codec.")
        stream.width, stream.height, stream.pix_fmt = form.width, form.height, kind.pixels
        context = stream.codec_context
        stream.time_base = context.time_base = 1 / form.fps
        context.thread_count = THREADS
        stream.options = dict[str, object](kind.quality(form))
        if not kind.palette:
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries = context.color_trc = BT709
        return stream

    def _add_audio(self, rate: int | None) -> AudioStream | None:
        if rate is None or self._kind.audio is None:
            return None
        stream = self._container.add_stream(self._kind.audio, rate=rate)
        if not isinstance(stream, AudioStream):
            raise TypeError(f"{self._kind.audio} is not an audio codec.")
        stream.layout = "stereo"
        return stream

    def _convert_colours(self, frame: VideoFrame) -> VideoFrame:
        """Convert to the colour space that players assume for a video of this size."""
        converted = frame.reformat(
            self._form.width,
            self._form.height,
            self._kind.pixels,
            src_colorspace=Colorspace.ITU709,
            dst_colorspace=Colorspace.ITU709,
            interpolation=Interpolation.BICUBIC,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )
        converted.pts, converted.time_base = frame.pts, frame.time_base
        return converted

    def _map_to_palette(self, frame: VideoFrame | None) -> list[VideoFrame]:
        """Map to a palette per frame: a common palette would need all frames before the first."""
        if self._graph is None:
            if frame is None:
                return []
            self._graph = _palettes(self._form, frame)
        self._graph.push(frame)
        frames: list[VideoFrame] = []
        while True:
            try:
                pulled = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return frames
            if isinstance(pulled, VideoFrame):
                frames.append(pulled)

    def _flush(self) -> None:
        if self._kind.palette:
            for mapped in self._map_to_palette(None):
                self._container.mux(self._video.encode(mapped))
        self._container.mux(self._video.encode(None))
        if self._audio is not None:
            self._container.mux(self._audio.encode(None))


@dataclass(frozen=True, slots=True)
class _Kind:
    """Settings for writing files of one media type."""

    container: str
    codec: str
    pixels: str
    quality: Callable[[VideoForm], dict[str, str]]
    audio: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    palette: bool = False


def _x264(form: VideoForm) -> dict[str, str]:
    preset = {"fast": "veryfast", "balanced": "medium", "small": "slow"}[form.effort]
    crf = {"low": "28", "medium": "23", "high": "18", "maximum": "12"}[form.quality]
    settings = {"preset": preset, "crf": crf}
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        # On AVX-512, x264 (core 165) allocates bits depending on memory behind a row's end, unless
        # 256 divides the width: equal frames gave different files. With AVX2, the output is
        # deterministic and otherwise the same.
        settings["x264-params"] = "asm=AVX2"
    return settings


def _vp9(form: VideoForm) -> dict[str, str]:
    speed = {"fast": "6", "balanced": "4", "small": "2"}[form.effort]
    crf = {"low": "40", "medium": "34", "high": "28", "maximum": "20"}[form.quality]
    return {"deadline": "good", "cpu-used": speed, "crf": crf, "b": "0", "row-mt": "1"}


def _gif(_form: VideoForm) -> dict[str, str]:
    return {}


_KINDS: Mapping[str, _Kind] = {
    # The index first, so that a player can start before it has the whole file.
    "video/mp4": _Kind("mp4", "libx264", "yuv420p", _x264, "aac", {"movflags": "+faststart"}),
    "video/webm": _Kind("webm", "libvpx-vp9", "yuv420p", _vp9, "libopus"),
    "image/gif": _Kind("gif", "gif", "pal8", _gif, None, {"loop": "0"}, palette=True),
}


def _kind(media_type: str) -> _Kind:
    if media_type not in _KINDS:
        raise Unsupported(
            f"Videos cannot be written as {media_type}. Ask for another output_format."
        )
    return _KINDS[media_type]


def _palettes(form: VideoForm, first: VideoFrame) -> Graph:
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
    """Crop the frame, centred and in whole pixels, to the aspect ratio of width × height."""
    high, wide = pixels.shape[:2]
    scale = min(wide / width, high / height)
    across, down = min(wide, round(width * scale)), min(high, round(height * scale))
    left, top = (wide - across) // 2, (high - down) // 2
    return np.ascontiguousarray(pixels[top : top + down, left : left + across])


class VideoFile:
    """Video file that is written as frames arrive. For one thread at a time.

    ``add`` raises ``Cancelled`` when the file is no longer needed. Frames beyond the number in the
    form are dropped.
    """

    def __init__(
        self, path: Path, form: VideoForm, scratch: Scratch, audio_rate: int | None = None
    ) -> None:
        """``audio_rate``: samples a second of the audio for ``finish``; None without audio."""
        self.path = path
        self.poster: Any = None  # PIL image in the form's size; None before the first frame
        self._form = form
        self._scratch = scratch
        self._writer = VideoWriter(
            path, form, audio_rate, scratch.description, marked=scratch.marked
        )

    def add(self, pixels: Pixels) -> None:
        self._scratch.check()
        form, number = self._form, self._writer.frames
        if number == form.num_frames:
            return
        if self.poster is None:
            self.poster = fit(Image.fromarray(pixels), form.width, form.height)
        self._writer.write(pixels)
        self._scratch.on_made(number + 1, form.num_frames)

    def finish(self, audio: Soundtrack | None = None) -> None:
        """Write the audio and complete the file.

        Raises ``PipelineFailed`` when there were fewer frames than the form has.
        """
        form = self._form
        if self._writer.frames < form.num_frames:
            self.abort()
            raise PipelineFailed(
                f"The pipeline made {self._writer.frames} frames, but the request needs "
                f"{form.num_frames}."
            )
        try:
            if audio is not None:
                self._write(audio)
        except BaseException:
            self.abort()
            raise
        self._writer.finish()

    def abort(self) -> None:
        """Close the file without completing it. It is not readable."""
        self._writer.abort()

    def _write(self, audio: Soundtrack) -> None:
        fps = self._form.fps
        for number in range(self._form.num_frames):
            self._scratch.check()
            self._writer.write_audio(audio.during(number / fps, (number + 1) / fps))
