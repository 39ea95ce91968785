"""Lumina."""

from __future__ import annotations

from typing import Any

import diffusers as df

from tests.engine.conformance import autoencoders, language_models, tokenizers
from tests.engine.conformance.case import Case, Wish


def _next() -> dict[str, Any]:
    transformer = df.LuminaNextDiT2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_attention_heads=4,
        num_kv_heads=2,
        multiple_of=16,
        cross_attention_dim=language_models.WIDTH,
    )
    return {
        "transformer": transformer,
        "vae": autoencoders.kl(),
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "text_encoder": language_models.gemma(),
        "tokenizer": tokenizers.words(ends=True),
    }


def _two() -> dict[str, Any]:
    transformer = df.Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(256, 64, 64),
        cap_feat_dim=language_models.WIDTH,
    )
    return {
        "transformer": transformer,
        "vae": autoencoders.kl_flow(),
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "text_encoder": language_models.gemma2(),
        "tokenizer": tokenizers.words(ends=True),
    }


def _call(_: Wish) -> dict[str, Any]:
    return {"height": 32, "width": 32, "clean_caption": False, "max_sequence_length": 16}


def _call_two(_: Wish) -> dict[str, Any]:
    return {"height": 32, "width": 32, "max_sequence_length": 32}


CASES = (
    Case("lumina", "LuminaPipeline", _next, _call),
    Case("lumina", "Lumina2Pipeline", _two, _call_two),
)
