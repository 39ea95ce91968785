"""EasyAnimate."""

from __future__ import annotations

from typing import Any

import diffusers as df

from tests.engine.conformance import autoencoders, language_models, tokenizers
from tests.engine.conformance.case import Case, Wish


def parts() -> dict[str, Any]:
    """The texts are read by a Qwen 3: the vision of Qwen2-VL is not called."""
    transformer = df.EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        num_layers=1,
        mmdit_layers=1,
        time_embed_dim=8,
        text_embed_dim=language_models.WIDTH,
        sample_width=8,
        sample_height=8,
    )
    return {
        "transformer": transformer,
        "vae": autoencoders.magvit(),
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "text_encoder": language_models.qwen3(),
        "tokenizer": tokenizers.words(32),
    }


def _size(_: Wish) -> dict[str, Any]:
    return {"height": 16, "width": 16, "num_frames": 5, "negative_prompt": "a dog"}


CASES = (Case("easyanimate", "EasyAnimatePipeline", parts, _size),)
