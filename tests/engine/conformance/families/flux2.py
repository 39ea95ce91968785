"""Flux 2, large and klein."""

from __future__ import annotations

from typing import Any

import diffusers as df

from tests.engine.conformance import autoencoders, inputs, language_models, tokenizers
from tests.engine.conformance.case import Case, Wish

_LAYERS = (1, 2)  # of the language model, that the transformer reads


def _transformer(*, guidance: bool) -> Any:
    return df.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=language_models.WIDTH * len(_LAYERS),
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )


def parts() -> dict[str, Any]:
    """The texts are read by a Llama: Mistral's vision is not called."""
    return {
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "vae": autoencoders.flux2(),
        "text_encoder": language_models.llama(),
        "tokenizer": tokenizers.words(),
        "transformer": _transformer(guidance=True),
    }


def klein(*, distilled: bool = False) -> dict[str, Any]:
    return {
        **parts(),
        "text_encoder": language_models.qwen3(),
        "transformer": _transformer(guidance=False),
        "is_distilled": distilled,
    }


def text(_: Wish) -> dict[str, Any]:
    return {
        "height": 16,
        "width": 16,
        "max_sequence_length": 64,
        "text_encoder_out_layers": _LAYERS,
    }


CASES = (
    Case("flux2", "Flux2Pipeline", parts, text),
    Case("flux2", "Flux2KleinPipeline", klein, text),
    Case(
        "flux2",
        "Flux2KleinInpaintPipeline",
        klein,
        lambda wish: {
            **text(wish),
            "image": inputs.image(wish),
            "mask_image": inputs.mask(wish),
            "strength": 0.8,
        },
    ),
    Case(
        "flux2",
        "Flux2KleinKVPipeline",
        lambda: klein(distilled=True),
        lambda wish: {**text(wish), "image": inputs.image(wish, 64)},
    ),
)
