"""The frames of a clip that the input names, at the pace and in the number that are asked for.
Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from deployments.clip_size import asked_fps, asked_frames, rendered_frames
from deployments.picture_size import Size
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput, Misconfigured

if TYPE_CHECKING:
    from PIL.Image import Image

    from deployments.engine.clip_reading import GivenClip

FIELD = "video_url"
MOST_TAKEN = 1000  # frames, where neither the input nor the entry says how many
MOST_PIXELS = 2**29  # of all frames, at three bytes each: 1.6 GB; 1,344 frames of 832×480


def given_fps(endpoint: Endpoint, input: Mapping[str, Any]) -> Fraction:
    """As asked for, or else as the clip has them."""
    try:
        return asked_fps(endpoint, input)
    except Misconfigured:  # neither the input nor the entry says it
        clip: GivenClip = input[FIELD]
        if clip.fps is not None:
            return clip.fps
    message = "the file does not tell its frames a second; say them as frames_per_second"
    raise InvalidInput.of_field(FIELD, message, "unsupported_video_format")


def given_frames(
    endpoint: Endpoint, input: Mapping[str, Any], fps: Fraction, size: Size
) -> list[Image]:
    """Those of the clip, up to as many as are asked for, each the middle of it in ``size``.
    ``InvalidInput`` where they would not fit into memory."""
    try:
        most = asked_frames(endpoint, input, fps)
    except Misconfigured:
        most = MOST_TAKEN
    clip: GivenClip = input[FIELD]
    room = MOST_PIXELS // (size.width * size.height)
    frames = clip.frames(size.width, size.height, fps, min(most, room + 1))
    if len(frames) > room:
        message = (
            f"the clip has more than {room} frames of {size.width}×{size.height} at {float(fps):g} "
            "a second; ask for fewer with num_frames, or for a smaller image_size"
        )
        raise InvalidInput.of_field(FIELD, message, "video_duration_too_long", {"max_frames": room})
    return frames


def filled_up(frames: Sequence[Image], compression: int) -> list[Image]:
    """With the last again and again, up to a number that the autoencoder can make."""
    wanted = rendered_frames(len(frames), compression)
    return [*frames, *[frames[-1]] * (wanted - len(frames))]
