"""Sana."""

from __future__ import annotations

from typing import Any

import diffusers as df

from tests.engine.conformance import autoencoders, inputs, language_models, tokenizers
from tests.engine.conformance.case import Case, Wish

_SHAPE = {
    "patch_size": 1,
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 4,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 4,
    "cross_attention_dim": 8,
    "caption_channels": language_models.WIDTH,
    "sample_size": 8,
}


def parts(solver: Any = None, **more: Any) -> dict[str, Any]:
    sprint = {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"} if solver else {}
    return {
        "scheduler": solver or df.FlowMatchEulerDiscreteScheduler(),
        "vae": autoencoders.dc(),
        "text_encoder": language_models.gemma2(),
        "tokenizer": tokenizers.words(ends=True),
        "transformer": df.SanaTransformer2DModel(num_layers=2, **_SHAPE, **sprint),
        "controlnet": df.SanaControlNetModel(num_layers=1, **_SHAPE),
        **more,
    }


def _call(_: Wish) -> dict[str, Any]:
    return {
        "height": 32,
        "width": 32,
        "use_resolution_binning": False,
        "clean_caption": False,
        "complex_human_instruction": None,
        "max_sequence_length": 16,
    }


def _sprint() -> dict[str, Any]:
    return parts(df.SCMScheduler())


def _sprint_call(wish: Wish) -> dict[str, Any]:
    return {**_call(wish), "max_timesteps": 1.57080, "intermediate_timesteps": None}


CASES = (
    Case("sana", "SanaPipeline", parts, _call),
    Case("sana", "SanaPAGPipeline", lambda: parts(pag_applied_layers=["blocks.1"]), _call),
    Case(
        "sana",
        "SanaControlNetPipeline",
        parts,
        lambda wish: {**_call(wish), "control_image": inputs.image(wish, 32)},
    ),
    Case("sana", "SanaSprintPipeline", _sprint, _sprint_call),
    Case(
        "sana",
        "SanaSprintImg2ImgPipeline",
        _sprint,
        lambda wish: {**_sprint_call(wish), "image": inputs.image(wish, 32), "strength": 0.8},
    ),
)
