"""Names of models elsewhere, and the endpoint that answers to each unless the setting
``DARKROOM_MODEL_ALIASES`` says otherwise.

Code that was written for another service names that service's models. Where the catalogue has the
same model, the name leads to it; the names of models that nobody else has lead to an endpoint that
does the same kind of work, and answers say which one it was.
"""

from __future__ import annotations

from collections.abc import Mapping

DEFAULT_PICTURE_MODEL = "gpt-image-1"
DEFAULT_CLIP_MODEL = "sora-2"
"""What a call to OpenAI's protocol means that names no model."""

_PICTURES = "fal-ai/fast-sdxl"  # it draws, redraws and fills in, and may be used commercially
_CLIPS = "fal-ai/wan/v2.2-5b/text-to-video"

MODEL_ALIASES: Mapping[str, str] = {
    DEFAULT_PICTURE_MODEL: _PICTURES,
    "gpt-image-1-mini": _PICTURES,
    "gpt-image-1.5": _PICTURES,
    "gpt-image-2": _PICTURES,
    "chatgpt-image-latest": _PICTURES,
    "dall-e-2": _PICTURES,
    "dall-e-3": _PICTURES,
    DEFAULT_CLIP_MODEL: _CLIPS,
    "sora-2-pro": _CLIPS,
    "black-forest-labs/flux-schnell": "fal-ai/flux/schnell",
    "black-forest-labs/flux-dev": "fal-ai/flux/dev",
    "black-forest-labs/flux-dev-lora": "fal-ai/flux-lora",
    "stability-ai/sdxl": "fal-ai/fast-sdxl",
    "qwen/qwen-image": "fal-ai/qwen-image",
    "prunaai/z-image-turbo": "fal-ai/z-image/turbo",
}
