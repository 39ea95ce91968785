"""Tasks of endpoints, and the input files that each task takes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.engine.media.input import InputKind
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured

TEXT_TO_IMAGE, IMAGE_TO_IMAGE, INPAINTING = "text-to-image", "image-to-image", "inpainting"
REALTIME = "realtime"
TEXT_TO_VIDEO, IMAGE_TO_VIDEO = "text-to-video", "image-to-video"
VIDEO_TO_VIDEO = "video-to-video"
TEXT_TO_AUDIO, AUDIO_TO_AUDIO = "text-to-audio", "audio-to-audio"

INPUT_FILES: Mapping[str, Mapping[str, InputKind]] = {
    IMAGE_TO_IMAGE: {"image_url": InputKind.IMAGE},
    INPAINTING: {"image_url": InputKind.IMAGE, "mask_url": InputKind.IMAGE},
    REALTIME: {"image_url": InputKind.IMAGE},
    IMAGE_TO_VIDEO: {"image_url": InputKind.IMAGE, "end_image_url": InputKind.IMAGE},
    VIDEO_TO_VIDEO: {"video_url": InputKind.VIDEO},
    AUDIO_TO_AUDIO: {"audio_url": InputKind.AUDIO},
}
"""Task → input fields that name a file."""

_MAY_BE_LEFT_OUT = frozenset({"end_image_url"})


def task_of(endpoint: Endpoint, known: tuple[str, ...]) -> str:
    """The ``task`` of the endpoint's options, by default the first of ``known``. ``Misconfigured``
    if it is not ``known``."""
    task = endpoint.options.get("task", known[0])
    if task not in known:
        raise Misconfigured(
            f"The family {endpoint.family} does not support the task {task!r} of {endpoint.id}. "
            f"Choose one of {', '.join(known)} (`options` in the catalogue)."
        )
    return task


def required_files(task: str) -> Mapping[str, InputKind]:
    """Fields that name a file in every input of ``task``, the main one first."""
    fields = INPUT_FILES.get(task, {})
    return {name: kind for name, kind in fields.items() if name not in _MAY_BE_LEFT_OUT}


def input_files(endpoint: Endpoint, input: Mapping[str, Any]) -> Mapping[str, InputKind]:
    """Fields of ``input`` whose files are fetched and decoded before the family prepares its
    call."""
    fields = INPUT_FILES.get(str(endpoint.options.get("task", "")), {})
    return {name: kind for name, kind in fields.items() if input.get(name) is not None}
