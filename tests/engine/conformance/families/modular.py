"""Modular pipelines of models that have whole ones too."""

from __future__ import annotations

from typing import Any

from tests.engine.conformance import inputs
from tests.engine.conformance.case import Case, Wish
from tests.engine.conformance.families import (
    flux,
    flux2,
    images,
    ltx,
    ltx2,
    qwen_image,
    sd3,
    sdxl,
    videos,
    wan,
    z_image,
)

_IMAGE = {"height": 16, "width": 16}


def _text(wish: Wish) -> dict[str, Any]:
    return {**_IMAGE}


def _shown(wish: Wish) -> dict[str, Any]:
    return {**_IMAGE, "image": inputs.image(wish)}


CASES = (
    Case(
        "flux", "FluxModularPipeline", flux.parts, lambda w: {**_IMAGE, "max_sequence_length": 16}
    ),
    Case(
        "flux",
        "FluxModularPipeline",
        flux.parts,
        lambda w: {**_shown(w), "strength": 0.8, "max_sequence_length": 16},
        variant="from an image",
    ),
    Case(
        "flux",
        "FluxKontextModularPipeline",
        flux.parts,
        lambda w: {**_shown(w), "max_sequence_length": 16, "_auto_resize": False, "max_area": 256},
    ),
    Case("flux2", "Flux2ModularPipeline", flux2.parts, flux2._text),
    Case("flux2", "Flux2KleinModularPipeline", flux2._klein, flux2._text),
    Case("flux2", "Flux2KleinBaseModularPipeline", flux2._klein, flux2._text),
    Case("sdxl", "StableDiffusionXLModularPipeline", sdxl.parts, _text),
    Case(
        "sdxl",
        "StableDiffusionXLModularPipeline",
        sdxl.parts,
        lambda w: {**_shown(w), "mask_image": inputs.mask(w), "strength": 0.8},
        variant="inpainting",
    ),
    Case(
        "sdxl",
        "StableDiffusionXLModularPipeline",
        sdxl.parts,
        lambda w: {**_text(w), "control_image": inputs.image(w)},
        variant="with a ControlNet",
    ),
    Case(
        "sd3",
        "StableDiffusion3ModularPipeline",
        sd3.parts,
        lambda w: {**_text(w), "max_sequence_length": 16},
    ),
    Case("wan", "WanModularPipeline", wan.parts, wan.size),
    Case("wan", "Wan22ModularPipeline", wan._two_experts, wan.size),
    Case(
        "wan",
        "WanImage2VideoModularPipeline",
        wan._from_image,
        lambda w: {**wan.size(w), "image": inputs.image(w)},
    ),
    Case(
        "z-image",
        "ZImageModularPipeline",
        z_image.parts,
        lambda w: {"height": 32, "width": 32, "max_sequence_length": 32},
    ),
    Case(
        "qwen-image",
        "QwenImageModularPipeline",
        qwen_image.parts,
        lambda w: {
            "height": 32,
            "width": 32,
            "max_sequence_length": 64,
            "negative_prompt": "a dog",
        },
    ),
    Case(
        "qwen-image",
        "QwenImageEditModularPipeline",
        qwen_image._edited,
        lambda w: {**qwen_image._edit(w)},
        heavy=True,
    ),
    Case(
        "ltx",
        "LTXModularPipeline",
        ltx.parts,
        lambda w: {"height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 16},
    ),
    Case(
        "ltx2",
        "LTX2ModularPipeline",
        ltx2.parts,
        lambda w: {"height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 16},
    ),
    Case("ernie", "ErnieImageModularPipeline", images._ernie, lambda w: {**_IMAGE}),
    Case(
        "helios",
        "HeliosModularPipeline",
        videos._helios,
        lambda w: {**wan.size(w), "num_latent_frames_per_chunk": 2},
    ),
)
