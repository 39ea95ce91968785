"""What inputs and outputs of an endpoint look like. Built once per endpoint, at start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from serve_app.catalog import (
    ace_step,
    flux,
    flux2,
    hunyuan_video,
    ltx_video,
    qwen_image,
    remaking,
    sdxl,
    stable_audio,
    upscaling,
    wan,
    z_image,
)
from serve_app.catalog.open import OpenInput
from serve_app.catalog.pydantic_schema import PydanticSchema
from serve_app.domain.endpoint import Endpoint


class InputSchema(Protocol):
    """Checks inputs of one endpoint, and describes both sides."""

    def validate(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The input with its defaults, and warnings; ``InvalidInput`` names the fields at fault."""
        ...

    def media_types(self, input: Mapping[str, Any]) -> tuple[str, ...]:
        """One media type for each file that a valid input may produce."""
        ...

    def json_schema(self) -> dict[str, Any]:
        """Of the input, as JSON Schema 2020-12; definitions are under ``$defs``."""
        ...

    def output_schema(self) -> dict[str, Any]:
        """Of the output, likewise."""
        ...


SCHEMAS: Mapping[str, Callable[[Endpoint], InputSchema]] = {
    "ace-step-text-to-music": partial(PydanticSchema, ace_step.TEXT_TO_MUSIC),
    "audio-to-audio": partial(PydanticSchema, remaking.AUDIO_TO_AUDIO),
    "flux-text-to-image": partial(PydanticSchema, flux.TEXT_TO_IMAGE),
    "flux-image-to-image": partial(PydanticSchema, flux.IMAGE_TO_IMAGE),
    "flux-lora": partial(PydanticSchema, flux.LORA),
    "flux2-realtime": partial(PydanticSchema, flux2.REALTIME),
    "hunyuan-image-to-video": partial(PydanticSchema, hunyuan_video.IMAGE_TO_VIDEO),
    "hunyuan-text-to-video": partial(PydanticSchema, hunyuan_video.TEXT_TO_VIDEO),
    "lcm-text-to-image": partial(PydanticSchema, sdxl.LCM),
    "ltx-image-to-video": partial(PydanticSchema, ltx_video.IMAGE_TO_VIDEO),
    "ltx-text-to-video": partial(PydanticSchema, ltx_video.TEXT_TO_VIDEO),
    "ltx2-text-to-video": partial(PydanticSchema, ltx_video.WITH_SOUND),
    "open": OpenInput,
    "qwen-image-text-to-image": partial(PydanticSchema, qwen_image.TEXT_TO_IMAGE),
    "sdxl-image-to-image": partial(PydanticSchema, sdxl.IMAGE_TO_IMAGE),
    "sdxl-inpainting": partial(PydanticSchema, sdxl.INPAINTING),
    "sdxl-text-to-image": partial(PydanticSchema, sdxl.TEXT_TO_IMAGE),
    "stable-audio-25-text-to-audio": partial(PydanticSchema, stable_audio.LONGER_TEXT_TO_AUDIO),
    "stable-audio-text-to-audio": partial(PydanticSchema, stable_audio.TEXT_TO_AUDIO),
    "upscaling": partial(PydanticSchema, upscaling.UPSCALING),
    "video-to-video": partial(PydanticSchema, remaking.VIDEO_TO_VIDEO),
    "wan-image-to-video": partial(PydanticSchema, wan.IMAGE_TO_VIDEO),
    "wan-text-to-video": partial(PydanticSchema, wan.TEXT_TO_VIDEO),
    "wan22-5b-image-to-video": partial(PydanticSchema, wan.SMALL_IMAGE_TO_VIDEO),
    "wan22-5b-text-to-video": partial(PydanticSchema, wan.SMALL_TEXT_TO_VIDEO),
    "wan22-a14b-image-to-video": partial(PydanticSchema, wan.LARGE_IMAGE_TO_VIDEO),
    "wan22-a14b-text-to-video": partial(PydanticSchema, wan.LARGE_TEXT_TO_VIDEO),
    "z-image-text-to-image": partial(PydanticSchema, z_image.TEXT_TO_IMAGE),
}
"""Name in the catalogue → how to build it. ``ValueError`` for settings that it cannot use."""
