"""Which files an input may produce: a media type for each, and an upload ticket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serve_app.domain.artifact import MEDIA_TYPES

Produced = Callable[[Mapping[str, Any]], tuple[str, ...]]
"""Of a valid input, the media types of its files, in their order."""


def in_format(field: str = "output_format", count: str = "num_images") -> Produced:
    """As many as ``count`` says, one where there is no such field, in the format that ``field``
    names."""

    def produced(input: Mapping[str, Any]) -> tuple[str, ...]:
        return (MEDIA_TYPES[input[field]],) * int(input.get(count, 1))

    return produced


PICTURES = in_format()


def nothing(_input: Mapping[str, Any]) -> tuple[str, ...]:
    """All is inside the output."""
    return ()


def clip_with_poster(input: Mapping[str, Any]) -> tuple[str, ...]:
    """A clip, and its first frame."""
    return (MEDIA_TYPES[input["output_format"]], MEDIA_TYPES["jpeg"]) * _times(input)


def sound_with_waveform(input: Mapping[str, Any]) -> tuple[str, ...]:
    """A sound, and a picture of it."""
    return (MEDIA_TYPES[input["output_format"]], MEDIA_TYPES["png"]) * _times(input)


def _times(input: Mapping[str, Any]) -> int:
    return len(input.get("seeds") or (None,))
