"""LTX-Video."""

from __future__ import annotations

from typing import Any

import diffusers as df
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

from tests.engine.conformance import autoencoders, inputs, text_encoders, tokenizers
from tests.engine.conformance.case import Case, Wish


def parts() -> dict[str, Any]:
    transformer = df.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    return {
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "vae": autoencoders.ltx(),
        "text_encoder": text_encoders.t5(),
        "tokenizer": tokenizers.t5(),
        "transformer": transformer,
    }


def _size(_: Wish) -> dict[str, Any]:
    return {"height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 16}


def _conditions(wish: Wish) -> dict[str, Any]:
    first = LTXVideoCondition(image=inputs.image(wish, 32), strength=0.8)
    later = LTXVideoCondition(video=inputs.video(wish, 9, 32), frame_index=8)
    return {**_size(wish), "num_frames": 17, "conditions": [first, later]}


CASES = (
    Case("ltx", "LTXPipeline", parts, _size),
    Case(
        "ltx",
        "LTXImageToVideoPipeline",
        parts,
        lambda wish: {**_size(wish), "image": inputs.image(wish, 32)},
    ),
    Case(
        "ltx",
        "LTXI2VLongMultiPromptPipeline",
        parts,
        lambda wish: {
            **_size(wish),
            "cond_image": inputs.image(wish, 32),
            "temporal_tile_size": 16,
            "temporal_overlap": 8,
        },
    ),
    Case(
        "ltx",
        "LTXConditionPipeline",
        parts,
        lambda wish: {**_size(wish), "image": inputs.image(wish, 32), "strength": 0.8},
    ),
    Case("ltx", "LTXConditionPipeline", parts, _conditions, variant="with conditions"),
)
