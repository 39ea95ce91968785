"""Videos of the families: size and frame rate, input video, and the output in fal's format.

Importing this module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from deployments.engine.media.video_format import VideoForm
from deployments.families.base import (
    GenerationCall,
    GenerationResult,
    MediaFile,
    Product,
    demo_facts,
    first_output,
    image_entry,
)
from deployments.families.image_io import Size, requested_size
from serve_app.domain.artifact import EXTENSIONS, UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput, Misconfigured
from serve_app.domain.media.image_size import AUTO
from serve_app.domain.media.video_size import VIDEO_SIZES

if TYPE_CHECKING:
    from PIL.Image import Image

    from deployments.engine.media.audio import Soundtrack
    from deployments.engine.media.video_reader import InputVideo
    from deployments.engine.media.video_writer import Pixels, VideoFile

FRAMES_PER_COPY = 16  # frames copied from the device at a time


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """Facts about a video that are kept until its frames are rendered."""

    form: VideoForm
    seed: int
    prompt: str
    audio_rate: int | None = None  # Hz; None: no audio track


def deliver_video(
    endpoint: Endpoint,
    call: GenerationCall,
    generated: GenerationResult,
    tickets: Sequence[UploadTicket],
) -> Product:
    """Encode the video for the first ticket, and its first frame for the second, if there is one.
    The call's fact ``video`` is a ``VideoFacts``. A video that the call's recording has already
    written is not encoded again."""
    facts: VideoFacts = call.output_facts["video"]
    form = facts.form
    if not tickets or tickets[0].media_type != form.media_type:
        types = ", ".join(ticket.media_type for ticket in tickets) or "none"
        raise Misconfigured(
            f"{endpoint.id} makes a video as {form.media_type}, but the lease has tickets for "
            f"{types}."
        )
    audio = _audio(facts, generated)
    recorded = call.recording.finish(audio) if call.recording is not None else None
    video = recorded or _encode_video(facts, generated, audio)
    files = [MediaFile(tickets[0], video.path, form.width, form.height)]
    output: dict[str, Any] = {
        "video": {
            **image_entry(files[0]),
            "fps": _plain(form),
            "duration": round(form.duration_s, 4),
            "num_frames": form.num_frames,
        },
        "seed": facts.seed,
        "prompt": facts.prompt,
        "timings": {"inference": round(generated.inference_s, 4)},
    }
    if len(tickets) > 1:
        from deployments.engine.media.images import encode  # noqa: PLC0415

        scratch = generated.scratch
        body = encode(
            video.poster, tickets[1].media_type, scratch.description, marked=scratch.marked
        )
        files.append(MediaFile(tickets[1], body, form.width, form.height))
        output["poster"] = image_entry(files[1])
    output |= demo_facts(endpoint, facts.prompt)
    return Product(output, files, units=form.duration_s)


def _audio(facts: VideoFacts, generated: GenerationResult) -> Soundtrack | None:
    if facts.audio_rate is None:
        return None
    from deployments.engine.media.audio import Soundtrack  # noqa: PLC0415

    return Soundtrack.of(first_output(generated.result, "audio", "sound")[0], facts.audio_rate)


def _encode_video(
    facts: VideoFacts, generated: GenerationResult, audio: Soundtrack | None
) -> VideoFile:
    """Encode a video whose frames the pipeline returned all at once."""
    from deployments.engine.media.video_writer import VideoFile  # noqa: PLC0415

    form = facts.form
    path = generated.scratch.new_file(EXTENSIONS[form.media_type])
    file = VideoFile(path, form, generated.scratch, facts.audio_rate)
    try:
        for pixels in _frames(generated.result, form.num_frames):
            file.add(pixels)
    except BaseException:
        file.abort()
        raise
    file.finish(audio)
    return file


def _frames(result: Any, count: int) -> Iterator[Pixels]:
    """The first ``count`` frames; the pipeline may have rendered more."""
    from deployments.engine.media.images import to_levels  # noqa: PLC0415

    video = first_output(result, "frames", "videos")[0][
        :count
    ]  # [frames, 3, height, width], 0 to 1
    for start in range(0, len(video), FRAMES_PER_COPY):
        yield from to_levels(video[start : start + FRAMES_PER_COPY])


def _plain(form: VideoForm) -> float | int:
    """Frame rate as a JSON number: 24 rather than 24.0."""
    return form.fps.numerator if form.fps.denominator == 1 else round(float(form.fps), 4)


# Size, duration and frame rate.

EXACT_RESOLUTIONS = frozenset({"1080p", "1440p", "2160p"})
"""Resolutions that are delivered exactly, because screens and players expect them: 1088 lines are
rendered and cropped to 1080. Models have their own sizes for the others, such as 704 for 720p."""

WIDE = "16:9"
FPS_FIELDS = ("frames_per_second", "frame_rate", "fps")
MAX_DENOMINATOR = 1001  # of television's frame rate 30000/1001


def video_size(
    endpoint: Endpoint, input: Mapping[str, Any], multiple: int, source_size: Size | None
) -> Size:
    """Size to deliver. A size in pixels is exact, and so are those of ``EXACT_RESOLUTIONS``. Other
    resolutions, and sizes that follow the shape of the input image, of ``source_size``, are rounded
    down to multiples of ``multiple``, which models can render."""
    if input.get("image_size") is not None:
        return requested_size(endpoint, input)
    box = _box(endpoint, input)
    ratio = input.get("aspect_ratio") or (AUTO if source_size else WIDE)
    if ratio == AUTO and source_size is not None:
        return _in_shape(source_size, box, multiple)
    if input.get("resolution") in EXACT_RESOLUTIONS:
        return box
    return Size(_down(box.width, multiple), _down(box.height, multiple))


def requested_fps(endpoint: Endpoint, input: Mapping[str, Any]) -> Fraction:
    """Frame rate of the input, or else of the endpoint's option ``video``."""
    for name in FPS_FIELDS:
        if input.get(name) is not None:
            return _fraction(name, input[name])
    return _fraction("fps", _format_option(endpoint, "fps"))


def requested_frames(endpoint: Endpoint, input: Mapping[str, Any], fps: Fraction) -> int:
    """Number of frames of the file: ``num_frames``, or what ``duration`` requires, or the
    endpoint's option ``video``."""
    if input.get("num_frames") is not None:
        return int(input["num_frames"])
    if input.get("duration") is not None:
        return max(1, round(_fraction("duration", input["duration"]) * fps))
    return int(_format_option(endpoint, "num_frames"))


def rendered_frames(requested: int, compression: int) -> int:
    """Smallest number of frames, at least ``asked``, that the autoencoder can make: one frame plus
    a multiple of ``compression``."""
    return math.ceil((requested - 1) / compression) * compression + 1


def _box(endpoint: Endpoint, input: Mapping[str, Any]) -> Size:
    resolution = input.get("resolution")
    if resolution in (None, AUTO):
        return Size(int(_format_option(endpoint, "width")), int(_format_option(endpoint, "height")))
    if resolution not in VIDEO_SIZES:
        known = ", ".join(VIDEO_SIZES)
        raise InvalidInput.of_field("resolution", f"Input should be one of {known}")
    sizes = VIDEO_SIZES[resolution]
    ratio = input.get("aspect_ratio") or WIDE
    if ratio not in sizes and ratio != AUTO:
        raise InvalidInput.of_field("aspect_ratio", f"Input should be one of {', '.join(sizes)}")
    return Size(*sizes.get(ratio, sizes[WIDE]))


def _in_shape(shape: Size, box: Size, multiple: int) -> Size:
    """Size with the shape's aspect ratio and as many pixels as the box."""
    area, ratio = box.width * box.height, shape.height / shape.width
    high, wide = math.sqrt(area * ratio), math.sqrt(area / ratio)
    return Size(_down(round(wide), multiple), _down(round(high), multiple))


def _down(side: int, multiple: int) -> int:
    return max(multiple, side // multiple * multiple)


def _format_option(endpoint: Endpoint, name: str) -> Any:
    video = endpoint.options.get("video_format")
    if not isinstance(video, Mapping) or name not in video:
        raise Misconfigured(
            f"{endpoint.id}: its input does not state the {name} of a video, so set "
            f"`options.video_format` in the catalogue, as `video_format: {{{name}: …}}`."
        )
    return video[name]


def _fraction(name: str, value: Any) -> Fraction:
    try:
        # Some of fal's choices among seconds have their unit: `8s`.
        fraction = Fraction(str(value).removesuffix("s")).limit_denominator(MAX_DENOMINATOR)
    except (ValueError, ZeroDivisionError):
        fraction = Fraction(0)
    if fraction <= 0:
        raise InvalidInput.of_field(name, "Input should be a number greater than 0")
    return fraction


# Input video.

FIELD = "video_url"
MAX_FRAMES = 1000  # frames, if neither the input nor the catalogue entry says how many
MAX_PIXELS = 2**29  # of all frames, 3 bytes each: 1.6 GB, or 1,344 frames of 832×480


def input_fps(endpoint: Endpoint, input: Mapping[str, Any], field: str = FIELD) -> Fraction:
    """Frame rate that the input asks for, or else the one of the input video."""
    try:
        return requested_fps(endpoint, input)
    except Misconfigured:  # neither the input nor the catalogue entry says it
        video: InputVideo = input[field]
        if video.fps is not None:
            return video.fps
    message = "the file does not state its frame rate; set frames_per_second"
    raise InvalidInput.of_field(field, message, "unsupported_video_format")


def input_frames(
    endpoint: Endpoint, input: Mapping[str, Any], fps: Fraction, size: Size, field: str = FIELD
) -> list[Image]:
    """Frames of the video in ``field``, up to the requested number, each cropped to its centre at
    ``size``. ``InvalidInput`` if they do not fit into memory."""
    try:
        limit = requested_frames(endpoint, input, fps)
    except Misconfigured:
        limit = MAX_FRAMES
    return video_frames(input[field], field, fps, size, limit)


def video_frames(
    video: InputVideo, at: str, fps: Fraction, size: Size, limit: int, videos: int = 1
) -> list[Image]:
    """Frames of the video at the place ``at`` of an input with as many ``videos``, up to ``limit``.
    ``InvalidInput`` if they do not fit into memory."""
    max_frames = MAX_PIXELS // videos // (size.width * size.height)
    frames = video.frames(size.width, size.height, fps, min(limit, max_frames + 1))
    if len(frames) > max_frames:
        message = (
            f"the video has more than {max_frames} frames of {size.width}×{size.height} at "
            f"{float(fps):g} fps; ask for fewer with num_frames, or for a smaller image_size"
        )
        raise InvalidInput.of_field(
            at, message, "video_duration_too_long", {"max_frames": max_frames}
        )
    return frames


def pad_frames(frames: Sequence[Image], compression: int) -> list[Image]:
    """Repeat the last frame until the autoencoder can process the number of frames."""
    count = rendered_frames(len(frames), compression)
    return [*frames, *[frames[-1]] * (count - len(frames))]
