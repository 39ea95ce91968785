"""Processors of vision-language models on machines without torchvision.

transformers needs it for the part of a processor that reads videos, so Qwen-Image-Edit and all
others with such a processor could not be loaded. No pipeline gives a processor videos.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from transformers import processing_utils
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.utils import is_torchvision_available

VIDEOS = "video_processor"


class NoVideos(ImageProcessingMixin):
    """Replacement for the part that reads videos."""

    @classmethod
    def from_pretrained(cls, *_arguments: Any, **_options: Any) -> NoVideos:
        return cls()

    def __call__(self, *_arguments: Any, **_options: Any) -> Any:
        raise ImportError("Videos for a vision-language model need torchvision. Install it.")


@contextmanager
def without_torchvision() -> Generator[None]:
    """Where torchvision is missing, processors are made without their part that reads videos while
    this is open. One thread at a time."""
    if is_torchvision_available():
        yield
        return
    classes: Any = processing_utils.MODALITY_TO_BASE_CLASS_MAPPING
    mixin, load = classes[VIDEOS], AutoVideoProcessor.__dict__["from_pretrained"]
    classes[VIDEOS] = ImageProcessingMixin.__name__
    AutoVideoProcessor.from_pretrained = NoVideos.from_pretrained
    try:
        yield
    finally:
        classes[VIDEOS] = mixin
        AutoVideoProcessor.from_pretrained = load
