"""What an endpoint makes of what, and which files its input names for it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured

TEXT_TO_IMAGE, IMAGE_TO_IMAGE, INPAINTING = "text-to-image", "image-to-image", "inpainting"
REALTIME = "realtime"
TEXT_TO_VIDEO, IMAGE_TO_VIDEO = "text-to-video", "image-to-video"
VIDEO_TO_VIDEO = "video-to-video"
TEXT_TO_AUDIO, AUDIO_TO_AUDIO = "text-to-audio", "audio-to-audio"


class GivenKind(StrEnum):
    """What a file is read as before the family prepares its call."""

    PICTURE = "picture"  # Pillow's, RGB
    CLIP = "clip"  # ``engine.clip_reading.GivenClip``
    SOUND = "sound"  # ``engine.sound_reading.GivenSound``


GIVEN_FILES: Mapping[str, Mapping[str, GivenKind]] = {
    IMAGE_TO_IMAGE: {"image_url": GivenKind.PICTURE},
    INPAINTING: {"image_url": GivenKind.PICTURE, "mask_url": GivenKind.PICTURE},
    REALTIME: {"image_url": GivenKind.PICTURE},
    IMAGE_TO_VIDEO: {"image_url": GivenKind.PICTURE, "end_image_url": GivenKind.PICTURE},
    VIDEO_TO_VIDEO: {"video_url": GivenKind.CLIP},
    AUDIO_TO_AUDIO: {"audio_url": GivenKind.SOUND},
}
"""Task → fields of its input that name a file."""

_MAY_BE_LEFT_OUT = frozenset({"end_image_url"})


def task_of(endpoint: Endpoint, known: tuple[str, ...]) -> str:
    """The ``task`` of the endpoint's options, or else the first that is ``known``.
    ``Misconfigured`` for one that is not."""
    task = endpoint.options.get("task", known[0])
    if task not in known:
        raise Misconfigured(
            f"The family {endpoint.family} does not know the task {task!r} of {endpoint.id}; "
            f"it knows {', '.join(known)} (`options` in the catalogue)."
        )
    return task


def begins_with(task: str) -> Mapping[str, GivenKind]:
    """The fields that name a file in every input of ``task``, the main one first."""
    fields = GIVEN_FILES.get(task, {})
    return {name: kind for name, kind in fields.items() if name not in _MAY_BE_LEFT_OUT}


def given_files(endpoint: Endpoint, input: Mapping[str, Any]) -> Mapping[str, GivenKind]:
    """The fields of ``input`` whose files are fetched and read before the family prepares its
    call."""
    fields = GIVEN_FILES.get(str(endpoint.options.get("task", "")), {})
    return {name: kind for name, kind in fields.items() if input.get(name) is not None}
