"""Modular image pipelines that have no whole one, or need other components than it."""

from __future__ import annotations

from typing import Any

import diffusers as df
from diffusers.modular_pipelines.flux3.image_processor import Flux3ImageProcessor
from diffusers.modular_pipelines.ideogram4.encoders import QWEN3_VL_ACTIVATION_LAYERS
from diffusers.modular_pipelines.krea2.encoders import KREA2_TEXT_ENCODER_SELECT_LAYERS

from tests.engine.conformance import (
    autoencoders,
    inputs,
    language_models,
    processors,
    tokenizers,
)
from tests.engine.conformance.case import Case, Wish
from tests.engine.conformance.families import images, qwen_image

_LLM = language_models.WIDTH
_LAYERS = (1, 2)  # of FLUX.3's text encoder, that its transformer reads


def _flux3(*, distilled: bool = False) -> dict[str, Any]:
    vae = autoencoders.flux2()
    return {
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "vae": vae,
        "image_processor": Flux3ImageProcessor(vae_scale_factor=4, vae_latent_channels=4),
        "text_encoder": language_models.qwen3_vl(),
        "tokenizer": processors.texts_and_images(),
        "prompt_upsampler": language_models.qwen35(),
        "prompt_upsampler_processor": processors.texts_and_images(),
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
        "processor": processors.texts_and_images(),
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


def _krea() -> dict[str, Any]:
    return images.krea(KREA2_TEXT_ENCODER_SELECT_LAYERS)


def _krea_text(_: Wish) -> dict[str, Any]:
    return {"height": 32, "width": 32, "max_sequence_length": 64}


def _anima() -> dict[str, Any]:
    return {
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "vae": autoencoders.qwen_image(),
        "text_encoder": language_models.qwen3(),
        "tokenizer": tokenizers.words(),
        "t5_tokenizer": tokenizers.t5(),
        "text_conditioner": df.AnimaTextConditioner(
            source_dim=_LLM,
            target_dim=32,
            model_dim=32,
            num_layers=1,
            num_attention_heads=2,
            target_vocab_size=tokenizers.VOCABULARY,
            min_sequence_length=16,
        ),
        "transformer": df.CosmosTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            mlp_ratio=2,
            text_embed_dim=32,
            adaln_lora_dim=4,
            max_size=(4, 32, 32),
            rope_scale=(1.0, 1.0, 1.0),
            concat_padding_mask=False,  # with it, torchvision is needed
            extra_pos_embed_type=None,
        ),
    }


def _anima_text(_: Wish) -> dict[str, Any]:
    return {"height": 32, "width": 32, "max_sequence_length": 16, "negative_prompt": "a dog"}


def _ideogram() -> dict[str, Any]:
    shape = {
        "in_channels": 16,
        "num_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "adaln_dim": 16,
        "llm_features_dim": _LLM * len(QWEN3_VL_ACTIVATION_LAYERS),
        "mrope_section": (4, 2, 2),
    }
    return {
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "vae": autoencoders.flux2(),
        "text_encoder": language_models.qwen3_vl(
            "Qwen3VLModel", num_hidden_layers=max(QWEN3_VL_ACTIVATION_LAYERS) + 1
        ),
        "tokenizer": tokenizers.words(),
        "transformer": df.Ideogram4Transformer2DModel(**shape),
        "unconditional_transformer": df.Ideogram4Transformer2DModel(**shape),
    }


def _ideogram_text(wish: Wish) -> dict[str, Any]:
    """The guidance of each step, stronger at first: as many as there are steps."""
    return {
        "height": 16,
        "width": 16,
        "max_sequence_length": 16,
        "guidance_schedule": [4.0] * (wish.steps - 1) + [2.0],
    }


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
    Case(
        "qwen-image",
        "QwenImage21ModularPipeline",
        _qwen_image21,
        lambda w: {**_qwen_image21_text(w), "use_kv_cache": False},
        variant="without its cache",
    ),
    Case(
        "qwen-image",
        "QwenImage21ModularPipeline",
        _qwen_image21,
        lambda w: {**_qwen_image21_shown(w), "use_kv_cache": False},
        variant="from an image without its cache",
    ),
    Case("qwen-image", "QwenImage21TurboModularPipeline", _qwen_image21, _qwen_image21_text),
    Case(
        "qwen-image",
        "QwenImage21TurboModularPipeline",
        _qwen_image21,
        _qwen_image21_shown,
        variant="from an image",
    ),
    Case("krea", "Krea2ModularPipeline", _krea, _krea_text),
    Case("krea", "Krea2TurboModularPipeline", _krea, _krea_text),
    Case("anima", "AnimaModularPipeline", _anima, _anima_text),
    Case(
        "anima",
        "AnimaModularPipeline",
        _anima,
        lambda w: {**_anima_text(w), "image": inputs.image(w, 32), "strength": 0.8},
        variant="from an image",
    ),
    Case("ideogram", "Ideogram4ModularPipeline", _ideogram, _ideogram_text),
    Case(
        "qwen-image",
        "QwenImageEditPlusModularPipeline",
        lambda: qwen_image.parts(halvings=6),
        lambda w: {
            "height": 256,
            "width": 256,
            "negative_prompt": "a dog",
            "image": inputs.image(w, 32),
        },
        heavy=True,
    ),
)
