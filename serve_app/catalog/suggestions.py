"""Error text for unknown endpoints, with suggestions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Iterable, Mapping, Sequence

WORKFLOWS, COMFY = "workflows", "comfy"
"""Namespaces of fal for customers' workflows."""

_TRAINS = re.compile(r"(?:^|[-/_])train(?:er|ing)(?:$|[-/_])")
HOW_TO_ADD = (
    "To add it with fal's fields, run `darkroom models add {} --weights OWNER/NAME` with its "
    "diffusers repository; docs/how-to/add-a-model.md says how."
)
APPS: Mapping[str, str] = {
    "fal-ai/birefnet": "background",
    "fal-ai/birefnet/v2": "background",
    "fal-ai/dia-tts": "speaker",
    "fal-ai/esrgan": "esrgan",
    "fal-ai/image-preprocessors/depth-anything/v2": "depth_anything",
    "fal-ai/imageutils/depth": "depth",
    "fal-ai/imageutils/rembg": "rembg",
    "fal-ai/sam2/auto-segment": "segmenter",
    "fal-ai/sam2/image": "segmenter",
    "fal-ai/swin2sr": "upscaler",
    "fal-ai/whisper": "whisper",
}
"""Endpoints of apps that come with Darkroom, and the names of the apps."""

MAX_SHOWN = 200  # characters of an id
MAX_NAMED = 12  # ids in a list
SIMILAR = 0.75
"""Least similarity of an id that may be a typing mistake. Below it, kinds say more than letters."""

IMAGE, EDIT, VIDEO, FROM_IMAGE, AUDIO = (
    "text-to-image",
    "image-to-image",
    "text-to-video",
    "image-to-video",
    "text-to-audio",
)
WORDS: Sequence[tuple[str, Sequence[str]]] = (
    (FROM_IMAGE, ("image-to-video", "i2v", "start-end", "first-last-frame", "animate")),
    (
        VIDEO,
        (
            *("video", "t2v", "kling", "veo", "sora", "hailuo", "pika", "luma", "dream-machine"),
            *("wan", "ltx", "mochi", "cogvideo", "vidu", "pixverse", "runway", "seedance"),
        ),
    ),
    (
        AUDIO,
        (
            *("audio", "music", "sound", "speech", "tts", "elevenlabs", "kokoro", "lyria"),
            *("ace-step", "voice", "mmaudio"),
        ),
    ),
    (
        EDIT,
        (
            *("image-to-image", "img2img", "edit", "inpaint", "outpaint", "fill", "redux"),
            *("kontext", "upscale", "esrgan", "ccsr", "remix", "rembg", "background"),
        ),
    ),
    (
        IMAGE,
        (
            *("image", "flux", "sdxl", "diffusion", "lightning", "recraft", "ideogram", "sana"),
            *("nano-banana", "seedream", "hidream", "playground", "kolors", "pixart", "lora"),
            *("photon", "bria", "omnigen", "lcm", "aura"),
        ),
    ),
)
"""Category and words of ids that belong to it. The first one with a word that occurs applies."""


def sentence(endpoint_id: str, served: Mapping[str, str], fal_ids: Container[str]) -> str:
    """Message for an unknown endpoint: the reason, ids that are served, and what to do.

    ``served``: ids of served endpoints, with their categories. Suggested are ids of the same kind,
    the most similar ones first.
    """
    shown = endpoint_id[:MAX_SHOWN]
    if shown.partition("/")[0] == WORKFLOWS:
        return (
            f"There is no workflow `{shown}` that you may call. Ids of workflows are "
            "workflows/TENANT/NAME. To register one, run `darkroom deploy` with its file, JSON or "
            "YAML; docs/how-to/run-a-workflow.md says how."
        )
    if shown.partition("/")[0] == COMFY:
        return (
            f"`{shown}` is a ComfyUI workflow of fal's, which this installation does not have. "
            "Export the workflow (API) and run `darkroom deploy` with it: "
            "docs/how-to/serve-comfyui-workflows.md says how."
        )
    if _TRAINS.search(shown):
        return (
            f"`{shown}` trains a model, and Darkroom trains none: it serves models. Train "
            "elsewhere, and serve the weights with `darkroom models add`."
        )
    if shown in APPS or shown in fal_ids:
        return _of_fal(shown, served)
    near = [
        candidate
        for candidate in _sort_by_similarity(shown, served)
        if _similarity(shown, candidate) >= SIMILAR
    ][:3]
    if near:
        return f"There is no endpoint `{shown}`. Did you mean {', '.join(near)}?"
    return f"There is no endpoint `{shown}`. {_of_kind(shown, served)}"


def _of_fal(shown: str, served: Mapping[str, str]) -> str:
    """Message for an endpoint of fal's, or of an app that comes with Darkroom."""
    missing = f"`{shown}` is an endpoint of fal's that this installation does not have."
    if shown in APPS:
        return (
            f"{missing} An app that comes with Darkroom serves it: run `darkroom deploy "
            f"{APPS[shown]}`; docs/how-to/use-the-apps-that-come-along.md says how."
        )
    return f"{missing} {_of_kind(shown, served)} {HOW_TO_ADD.format(shown)}"


def category_of(endpoint_id: str) -> str | None:
    """Category that the words of an id suggest; None if they suggest none."""
    words = re.split(r"[/_.-]", endpoint_id.lower())
    text = f"-{'-'.join(words)}"
    for category, names in WORDS:
        # A word may continue: `wan25`, `cogvideox`, `flux1`.
        if any(f"-{name}" in text for name in names):
            return category
    return None


def _of_kind(shown: str, served: Mapping[str, str]) -> str:
    category = category_of(shown)
    if category is None:
        return _all(served)
    same = [endpoint_id for endpoint_id, kind in served.items() if kind == category]
    if not same:
        return f"Nothing for {category} is served here."
    nearest = _sort_by_similarity(shown, same)[:3]
    return f"For {category}, this installation serves {', '.join(nearest)}."


def _sort_by_similarity(shown: str, ids: Iterable[str]) -> list[str]:
    """Ids, the most similar one first."""
    return sorted(ids, key=lambda endpoint_id: (-_similarity(shown, endpoint_id), endpoint_id))


def _similarity(shown: str, endpoint_id: str) -> float:
    """Similarity, 1 for the same id. A part of an id is similar to it: `flux`, `wan/v2.2`."""
    if f"/{shown}/" in f"/{endpoint_id}/":
        return max(SIMILAR, len(shown) / len(endpoint_id))
    return difflib.SequenceMatcher(None, endpoint_id, shown).ratio()


def _all(served: Iterable[str]) -> str:
    ids = sorted(served)
    more = f" and {len(ids) - MAX_NAMED} more" if len(ids) > MAX_NAMED else ""
    return f"This installation serves {', '.join(ids[:MAX_NAMED]) or 'none'}{more}."
