"""Z-Image."""

from __future__ import annotations

from typing import Any

import diffusers as df

from tests.engine.conformance import autoencoders, inputs, language_models, tokenizers
from tests.engine.conformance.case import Case, Wish

_SHAPE = {
    "all_patch_size": (2,),
    "all_f_patch_size": (1,),
    "dim": 32,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
}


def parts(control_in_dim: int = 16) -> dict[str, Any]:
    transformer = df.ZImageTransformer2DModel(
        **_SHAPE,
        in_channels=16,
        n_layers=2,
        cap_feat_dim=language_models.WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    controlnet = df.ZImageControlNetModel(
        **_SHAPE,
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=control_in_dim,
    )
    return {
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "vae": autoencoders.kl_flow(16),
        "text_encoder": language_models.qwen3(),
        "tokenizer": tokenizers.words(),
        "transformer": transformer,
        "controlnet": controlnet,
    }


def _text(_: Wish) -> dict[str, Any]:
    return {"height": 32, "width": 32, "max_sequence_length": 32, "guidance_scale": 3.0}


def _from_image(wish: Wish) -> dict[str, Any]:
    return {**_text(wish), "image": inputs.image(wish, 32), "strength": 0.8}


def _control(wish: Wish) -> dict[str, Any]:
    return {**_text(wish), "control_image": inputs.image(wish, 32)}


CASES = (
    Case("z-image", "ZImagePipeline", parts, _text),
    Case("z-image", "ZImageImg2ImgPipeline", parts, _from_image),
    Case(
        "z-image",
        "ZImageInpaintPipeline",
        parts,
        lambda wish: {**_from_image(wish), "mask_image": inputs.mask(wish, 32)},
    ),
    Case("z-image", "ZImageControlNetPipeline", parts, _control),
    Case(
        "z-image",
        "ZImageControlNetInpaintPipeline",
        lambda: parts(33),
        lambda wish: {
            **_control(wish),
            "image": inputs.image(wish, 32),
            "mask_image": inputs.mask(wish, 32),
        },
    ),
)
