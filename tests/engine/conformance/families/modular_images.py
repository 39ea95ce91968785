"""Modular image pipelines that have no whole one, or need other components than it."""

from __future__ import annotations

from typing import Any

import diffusers as df
from diffusers.modular_pipelines.flux3.image_processor import Flux3ImageProcessor

from tests.engine.conformance import autoencoders, inputs, language_models, processors
from tests.engine.conformance.case import Case, Wish

_LLM = language_models.WIDTH
_LAYERS = (1, 2)  # of FLUX.3's text encoder, that its transformer reads


def _flux3(*, distilled: bool = False) -> dict[str, Any]:
    vae = autoencoders.flux2()
    return {
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "vae": vae,
        "image_processor": Flux3ImageProcessor(vae_scale_factor=4, vae_latent_channels=4),
        "text_encoder": language_models.qwen3_vl(),
        "tokenizer": processors.TextsAndImages(),
        "prompt_upsampler": language_models.qwen35(),
        "prompt_upsampler_processor": processors.TextsAndImages(),
        "transformer": df.Flux3Transformer2DModel(
            in_channels=16,
            cond_in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=_LLM * len(_LAYERS),
            timestep_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            flow_map=distilled,
        ),
    }


def _flux3_text(_: Wish) -> dict[str, Any]:
    return {
        "height": 16,
        "width": 16,
        "text_encoder_out_layers": _LAYERS,
        "max_new_tokens": 4,
    }


def _flux3_shown(wish: Wish) -> dict[str, Any]:
    return {**_flux3_text(wish), "image": inputs.image(wish)}


def _qwen_image21() -> dict[str, Any]:
    return {
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "vae": autoencoders.qwen_image21(),
        "text_encoder": language_models.qwen3_vl(),
        "processor": processors.TextsAndImages(),
        "transformer": df.QwenImage21Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            context_in_dim=_LLM,
            axes_dims_rope=(8, 4, 4),
        ),
    }


def _qwen_image21_text(_: Wish) -> dict[str, Any]:
    return {"height": 32, "width": 32}


def _qwen_image21_shown(wish: Wish) -> dict[str, Any]:
    return {"output_resolution": 32, "image": inputs.image(wish, 32)}


CASES = (
    Case("flux3", "Flux3ModularPipeline", _flux3, _flux3_text),
    Case("flux3", "Flux3ModularPipeline", _flux3, _flux3_shown, variant="from an image"),
    Case("flux3", "Flux3DistilledModularPipeline", lambda: _flux3(distilled=True), _flux3_text),
    Case(
        "flux3",
        "Flux3DistilledModularPipeline",
        lambda: _flux3(distilled=True),
        _flux3_shown,
        variant="from an image",
    ),
    Case("qwen-image", "QwenImage21ModularPipeline", _qwen_image21, _qwen_image21_text),
    Case(
        "qwen-image",
        "QwenImage21ModularPipeline",
        _qwen_image21,
        _qwen_image21_shown,
        variant="from an image",
    ),
    Case("qwen-image", "QwenImage21TurboModularPipeline", _qwen_image21, _qwen_image21_text),
    Case(
        "qwen-image",
        "QwenImage21TurboModularPipeline",
        _qwen_image21,
        _qwen_image21_shown,
        variant="from an image",
    ),
)
