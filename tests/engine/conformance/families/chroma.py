"""Chroma."""

from __future__ import annotations

from typing import Any

import diffusers as df

from tests.engine.conformance import autoencoders, inputs, text_encoders, tokenizers
from tests.engine.conformance.case import Case, Wish


def parts() -> dict[str, Any]:
    transformer = df.ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    # Read by the pipeline for inpainting, though the transformer's class does not take it.
    transformer.register_to_config(guidance_embeds=False)
    return {
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "vae": autoencoders.kl_flow(),
        "text_encoder": text_encoders.t5(),
        "tokenizer": tokenizers.t5(),
        "transformer": transformer,
    }


def _text(_: Wish) -> dict[str, Any]:
    return {"height": 16, "width": 16, "max_sequence_length": 16, "negative_prompt": "a dog"}


def _from_image(wish: Wish) -> dict[str, Any]:
    return {**_text(wish), "image": inputs.image(wish), "strength": 0.8}


CASES = (
    Case("chroma", "ChromaPipeline", parts, _text),
    Case("chroma", "ChromaImg2ImgPipeline", parts, _from_image),
    Case(
        "chroma",
        "ChromaInpaintPipeline",
        parts,
        lambda wish: {**_from_image(wish), "mask_image": inputs.mask(wish)},
    ),
)
