"""Image models that are each a family of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers as df

from tests.engine.conformance import (
    autoencoders,
    inputs,
    language_models,
    processors,
    text_encoders,
    tokenizers,
)
from tests.engine.conformance.case import Case, Wish
from tests.engine.conformance.families import sd

_FLUX_LIKE = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
}
_ROPE = (4, 4, 8)
_LLM = language_models.WIDTH


def _flow(**parts: Any) -> dict[str, Any]:
    return {"scheduler": df.FlowMatchEulerDiscreteScheduler(), **parts}


def _bria() -> dict[str, Any]:
    return _flow(
        transformer=df.BriaTransformer2DModel(
            in_channels=16, axes_dims_rope=[4, 4, 8], **_FLUX_LIKE
        ),
        vae=autoencoders.kl_flow(),
        text_encoder=text_encoders.t5(),
        tokenizer=tokenizers.t5(),
    )


def _fibo() -> dict[str, Any]:
    return _flow(
        transformer=df.BriaFiboTransformer2DModel(
            **{**_FLUX_LIKE, "joint_attention_dim": 2 * _LLM},
            in_channels=16,
            axes_dims_rope=[4, 4, 8],
            text_encoder_dim=_LLM,
        ),
        vae=autoencoders.wan(),
        text_encoder=language_models.smollm3(),
        tokenizer=tokenizers.words(ends=True),
    )


def _ovis() -> dict[str, Any]:
    return _flow(
        transformer=df.OvisImageTransformer2DModel(
            in_channels=16, out_channels=16, axes_dims_rope=_ROPE, **_FLUX_LIKE
        ),
        vae=autoencoders.kl_flow(),
        text_encoder=language_models.qwen3(),
        tokenizer=tokenizers.words(),
    )


def _longcat() -> dict[str, Any]:
    return _flow(
        transformer=df.LongCatImageTransformer2DModel(
            in_channels=64, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8], **_FLUX_LIKE
        ),
        vae=autoencoders.kl_flow(16),
        text_encoder=language_models.qwen25_vl(),
        tokenizer=tokenizers.words(),
        text_processor=processors.texts_and_images(),
    )


def _nucleus() -> dict[str, Any]:
    return _flow(
        transformer=df.NucleusMoEImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=4,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=_LLM,
            axes_dims_rope=(8, 4, 4),
            num_experts=4,
            moe_intermediate_dim=16,
            capacity_factors=2.0,
        ),
        vae=autoencoders.qwen_image(),
        text_encoder=language_models.qwen3_vl(),
        processor=processors.texts_and_images(),
    )


def krea(layers: Sequence[int] = (1, 2)) -> dict[str, Any]:
    """``layers``: of the text encoder, that the transformer reads."""
    return _flow(
        transformer=df.Krea2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=32,
            timestep_embed_dim=16,
            text_hidden_dim=_LLM,
            num_text_layers=len(layers),
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=32,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(8, 4, 4),
        ),
        vae=autoencoders.qwen_image(),
        text_encoder=language_models.qwen3_vl("Qwen3VLModel", num_hidden_layers=max(layers)),
        tokenizer=tokenizers.words(),
        text_encoder_select_layers=tuple(layers),
        is_distilled=False,
        patch_size=2,
    )


def ernie() -> dict[str, Any]:
    return _flow(
        transformer=df.ErnieImageTransformer2DModel(
            hidden_size=32,
            num_attention_heads=2,
            num_layers=2,
            ffn_hidden_size=32,
            in_channels=16,
            out_channels=16,
            text_in_dim=_LLM,
            rope_axes_dim=(8, 4, 4),
        ),
        vae=autoencoders.flux2(),
        text_encoder=language_models.llama(),
        tokenizer=tokenizers.words(),
    )


def _hidream() -> dict[str, Any]:
    return _flow(
        transformer=df.HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_channels=[32, _LLM],
            text_emb_dim=64,
            axes_dims_rope=(4, 2, 2),
            max_resolution=(32, 32),
            llama_layers=(0, 1),
            force_inference_output=True,
        ),
        vae=autoencoders.kl_flow(),
        text_encoder=text_encoders.clip_projected(),
        tokenizer=tokenizers.clip(),
        text_encoder_2=text_encoders.clip_projected(),
        tokenizer_2=tokenizers.clip(),
        text_encoder_3=text_encoders.t5(),
        tokenizer_3=tokenizers.t5(),
        text_encoder_4=language_models.llama("LlamaForCausalLM"),
        tokenizer_4=tokenizers.words(),
    )


def _prx(in_channels: int = 4, *, vae: bool = True) -> dict[str, Any]:
    return _flow(
        transformer=df.PRXTransformer2DModel(
            in_channels=in_channels,
            patch_size=2,
            context_in_dim=_LLM,
            hidden_size=16,
            mlp_ratio=2.0,
            num_heads=2,
            depth=1,
            axes_dim=[4, 4],
        ),
        vae=autoencoders.kl_flow() if vae else None,
        text_encoder=language_models.gemma2(),
        tokenizer=tokenizers.words(24, ends=True),
        default_sample_size=8,
    )


def _text(_: Wish) -> dict[str, Any]:
    return {"height": 16, "width": 16, "max_sequence_length": 32}


def _fibo_edit(wish: Wish) -> dict[str, Any]:
    """It takes its prompts as JSON."""
    return {
        **_text(wish),
        "height": 32,
        "width": 32,
        "prompt": f'{{"edit_instruction": "{wish.prompt}"}}',
        "negative_prompt": "a dog",
        "image": inputs.image(wish, 32),
        "_auto_resize": False,
        "max_sequence_length": 64,
    }


def _large(_: Wish) -> dict[str, Any]:
    return {"height": 32, "width": 32}


CASES = (
    Case("bria", "BriaPipeline", _bria, lambda wish: {**_text(wish), "max_sequence_length": 16}),
    Case(
        "bria",
        "BriaFiboPipeline",
        _fibo,
        lambda wish: {**_text(wish), "height": 32, "width": 32, "negative_prompt": "a dog"},
    ),
    Case("bria", "BriaFiboEditPipeline", _fibo, _fibo_edit),
    Case(
        "nucleus",
        "NucleusMoEImagePipeline",
        _nucleus,
        lambda wish: {**_large(wish), "max_sequence_length": 64, "return_index": -1},
    ),
    Case("ovis", "OvisImagePipeline", _ovis, _text),
    Case(
        "longcat",
        "LongCatImagePipeline",
        _longcat,
        lambda wish: {**sd.text(wish), "enable_prompt_rewrite": False},
    ),
    Case("krea", "Krea2Pipeline", krea, lambda wish: {**_large(wish), "max_sequence_length": 64}),
    Case("ernie", "ErnieImagePipeline", ernie, lambda wish: {**sd.text(wish), "use_pe": False}),
    Case(
        "hidream",
        "HiDreamImagePipeline",
        _hidream,
        lambda wish: {**_text(wish), "max_sequence_length": 16},
        {"default_sample_size": 8},
    ),
    Case(
        "prx", "PRXPipeline", _prx, lambda wish: {**sd.text(wish), "use_resolution_binning": False}
    ),
    Case(
        "prx",
        "PRXPixelPipeline",
        lambda: _prx(3, vae=False),
        lambda wish: {**sd.text(wish), "use_resolution_binning": False},
    ),
)
