"""Tiny models that pipelines look at images with, and what prepares the images for them."""

from __future__ import annotations

from typing import Any

import transformers as tf

SIDE = 16


def clip(
    kind: str = "CLIPVisionModelWithProjection",
    width: int = 32,
    side: int = SIDE,
    patch: int | None = None,
) -> Any:
    return getattr(tf, kind)(
        tf.CLIPVisionConfig(
            hidden_size=width,
            projection_dim=width,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=side,
            patch_size=patch or side // 2,
        )
    )


def clip_processor(side: int = SIDE) -> Any:
    return tf.CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )


def siglip(width: int = 32) -> Any:
    return tf.SiglipVisionModel(
        tf.SiglipVisionConfig(
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=8,
        )
    )


def siglip_processor() -> Any:
    return tf.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
