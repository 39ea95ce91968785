"""Models whose pipelines keep their guidance in an object of its own."""

from __future__ import annotations

from typing import Any

import diffusers as df
from diffusers.guiders import AdaptiveProjectedMixGuidance, ClassifierFreeGuidance

from tests.engine.conformance import (
    autoencoders,
    inputs,
    language_models,
    text_encoders,
    tokenizers,
    vision_encoders,
)
from tests.engine.conformance.case import Case, Wish
from tests.engine.conformance.families import sd

_ROPE = (4, 6, 6)
_SHAPE = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_refiner_layers": 1,
    "text_embed_dim": language_models.WIDTH,
    "text_embed_2_dim": 32,
}


def _texts(lead: int = 0) -> dict[str, Any]:
    """Four layers, for the last two are left out."""
    return {
        "text_encoder": language_models.qwen3(num_hidden_layers=4),
        "tokenizer": tokenizers.words(2048, lead=lead),
        "text_encoder_2": text_encoders.t5(),
        "tokenizer_2": tokenizers.t5(),
        "scheduler": df.FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def hunyuan_video_15(task: str) -> dict[str, Any]:
    transformer = df.HunyuanVideo15Transformer3DModel(
        **_SHAPE,
        in_channels=9,
        out_channels=4,
        num_layers=1,
        image_embed_dim=32,
        rope_axes_dim=_ROPE,
        target_size=16,
        task_type=task,
    )
    return {
        **_texts(lead=24),
        "transformer": transformer,
        "vae": autoencoders.hunyuan_video_15(),
        "guider": ClassifierFreeGuidance(guidance_scale=2.0),
        "image_encoder": vision_encoders.siglip(),
        "feature_extractor": vision_encoders.siglip_processor(),
    }


def _images() -> dict[str, Any]:
    transformer = df.HunyuanImageTransformer2DModel(
        **_SHAPE,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        patch_size=(1, 1),
        rope_axes_dim=(8, 8),
    )
    return {
        **_texts(),
        "transformer": transformer,
        "vae": autoencoders.hunyuan_image(),
        "guider": AdaptiveProjectedMixGuidance(
            guidance_scale=3.5,
            adaptive_projected_guidance_momentum=-0.5,
            adaptive_projected_guidance_start_step=1,
        ),
        "ocr_guider": None,
    }


def _video(_: Wish) -> dict[str, Any]:
    return {"height": 16, "width": 16, "num_frames": 5}


CASES = (
    Case(
        "hunyuan-video",
        "HunyuanVideo15Pipeline",
        lambda: hunyuan_video_15("t2v"),
        _video,
        heavy=True,
    ),
    Case(
        "hunyuan-video",
        "HunyuanVideo15ImageToVideoPipeline",
        lambda: hunyuan_video_15("i2v"),
        lambda wish: {"num_frames": 5, "image": inputs.image(wish)},
        heavy=True,
    ),
    Case("hunyuan-image", "HunyuanImagePipeline", _images, sd.text, heavy=True),
)
