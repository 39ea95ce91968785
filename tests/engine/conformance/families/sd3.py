"""Stable Diffusion 3."""

from __future__ import annotations

from typing import Any

import diffusers as df

from tests.engine.conformance import autoencoders, inputs, text_encoders, tokenizers
from tests.engine.conformance.case import Case
from tests.engine.conformance.families import sd

_SHAPE = {
    "sample_size": 8,
    "patch_size": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 64,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 64,
}


def parts(channels: int = 4, *, extra: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "vae": autoencoders.kl_flow(channels),
        "text_encoder": text_encoders.clip_projected(),
        "tokenizer": tokenizers.clip(),
        "text_encoder_2": text_encoders.clip_projected(),
        "tokenizer_2": tokenizers.clip(),
        "text_encoder_3": text_encoders.t5(64),
        "tokenizer_3": tokenizers.t5(),
        "transformer": df.SD3Transformer2DModel(
            in_channels=channels, out_channels=channels, num_layers=2, **_SHAPE
        ),
        "controlnet": df.SD3ControlNetModel(
            in_channels=channels, num_layers=1, extra_conditioning_channels=extra, **_SHAPE
        ),
        **more,
    }


def _pag() -> dict[str, Any]:
    return parts(pag_applied_layers=["blocks.0"])


CASES = (
    Case("sd3", "StableDiffusion3Pipeline", parts, sd.text),
    Case(
        "sd3",
        "StableDiffusion3Img2ImgPipeline",
        parts,
        lambda wish: {**sd.text(wish), **sd.from_image(wish)},
    ),
    Case("sd3", "StableDiffusion3InpaintPipeline", lambda: parts(16), sd.inpaint),
    Case("sd3", "StableDiffusion3PAGPipeline", _pag, sd.text),
    Case(
        "sd3",
        "StableDiffusion3PAGImg2ImgPipeline",
        _pag,
        lambda wish: {**sd.text(wish), **sd.from_image(wish)},
    ),
    Case(
        "sd3",
        "StableDiffusion3ControlNetPipeline",
        parts,
        lambda wish: {**sd.text(wish), "control_image": inputs.image(wish)},
    ),
    Case(
        "sd3",
        "StableDiffusion3ControlNetInpaintingPipeline",
        lambda: parts(extra=1),
        lambda wish: {
            **sd.text(wish),
            "control_image": inputs.image_tensor(wish),
            "control_mask": inputs.image_tensor(wish)[:, :1].round(),
        },
    ),
)
