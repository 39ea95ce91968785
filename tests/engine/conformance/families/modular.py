"""Modular pipelines over the components of whole ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.engine.conformance import inputs, unets
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

Call = Callable[[Wish], Mapping[str, Any]]


def square_call(side: int = 16, **more: Any) -> Call:
    """Arguments of a call that makes squares of this side, in pixels."""
    return lambda _: {"height": side, "width": side, **more}


def image_call(call: Call, *names: str, **more: Any) -> Call:
    """Arguments of ``call``, and an image under each of ``names``."""
    return lambda wish: {**call(wish), **{name: inputs.image(wish) for name in names}, **more}


def _masked(wish: Wish) -> dict[str, Any]:
    return {**square_call()(wish), "image": inputs.image(wish), "mask_image": inputs.mask(wish)}


_SHORT = square_call(max_sequence_length=16)
_FLUX, _SDXL = "FluxModularPipeline", "StableDiffusionXLModularPipeline"
_KONTEXT = {"_auto_resize": False, "max_area": 16 * 16}
_VIDEO = square_call(32, num_frames=9, max_sequence_length=16)

CASES = (
    Case("flux", _FLUX, flux.parts, _SHORT),
    Case(
        "flux",
        _FLUX,
        flux.parts,
        image_call(_SHORT, "image", strength=0.8),
        variant="from an image",
    ),
    Case("flux", "FluxKontextModularPipeline", flux.parts, image_call(_SHORT, "image", **_KONTEXT)),
    Case("flux2", "Flux2ModularPipeline", flux2.parts, flux2.text),
    Case("flux2", "Flux2KleinModularPipeline", flux2.klein, flux2.text),
    Case("flux2", "Flux2KleinBaseModularPipeline", flux2.klein, flux2.text),
    Case("sdxl", _SDXL, sdxl.parts, square_call()),
    Case(
        "sdxl", _SDXL, sdxl.parts, lambda w: {**_masked(w), "strength": 0.8}, variant="inpainting"
    ),
    Case(
        "sdxl",
        _SDXL,
        sdxl.parts,
        image_call(square_call(), "control_image"),
        variant="with a ControlNet",
    ),
    Case(
        "sdxl",
        _SDXL,
        lambda: sdxl.parts(controlnet=unets.controlnet_union()),
        image_call(square_call(control_mode=1), "control_image"),
        variant="with a ControlNet Union",
    ),
    Case("sd3", "StableDiffusion3ModularPipeline", sd3.parts, _SHORT),
    Case("wan", "WanModularPipeline", wan.parts, wan.size),
    Case("wan", "Wan22ModularPipeline", wan.two_experts, wan.size),
    Case("wan", "WanImage2VideoModularPipeline", wan.from_image, image_call(wan.size, "image")),
    Case(
        "z-image", "ZImageModularPipeline", z_image.parts, square_call(32, max_sequence_length=32)
    ),
    Case(
        "qwen-image",
        "QwenImageModularPipeline",
        qwen_image.parts,
        square_call(32, max_sequence_length=64, negative_prompt="a dog"),
    ),
    Case(
        "qwen-image",
        "QwenImageEditModularPipeline",
        qwen_image.edit_parts,
        qwen_image.edit,
        heavy=True,
    ),
    Case(
        "qwen-image",
        "QwenImageLayeredModularPipeline",
        qwen_image.layers,
        qwen_image.layer_inputs,
        heavy=True,
    ),
    Case("ltx", "LTXModularPipeline", ltx.parts, _VIDEO),
    Case("ltx2", "LTX2ModularPipeline", ltx2.parts, _VIDEO, heavy=True),
    Case("ernie", "ErnieImageModularPipeline", images.ernie, square_call()),
    Case(
        "helios",
        "HeliosModularPipeline",
        videos.helios,
        lambda wish: {**wan.size(wish), "num_latent_frames_per_chunk": 2},
    ),
)
