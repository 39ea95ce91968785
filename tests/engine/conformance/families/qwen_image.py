"""Qwen-Image."""

from __future__ import annotations

from typing import Any

import diffusers as df

from tests.engine.conformance import autoencoders, inputs, language_models, processors, tokenizers
from tests.engine.conformance.case import Case, Wish

_SHAPE = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": language_models.WIDTH,
    "axes_dims_rope": (8, 4, 4),
}


def parts(*, extra: int = 0, halvings: int = 3) -> dict[str, Any]:
    return {
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "vae": autoencoders.qwen_image(halvings=halvings),
        "text_encoder": language_models.qwen25_vl(),
        "tokenizer": tokenizers.words(1024),
        "processor": processors.texts_and_images(),
        "transformer": df.QwenImageTransformer2DModel(**_SHAPE),
        "controlnet": df.QwenImageControlNetModel(**_SHAPE, extra_condition_channels=extra),
    }


def _text(_: Wish) -> dict[str, Any]:
    return {
        "height": 32,
        "width": 32,
        "max_sequence_length": 64,
        "negative_prompt": "a dog",
        "true_cfg_scale": 2.0,
    }


def _from_image(wish: Wish) -> dict[str, Any]:
    return {**_text(wish), "image": inputs.image(wish, 32), "strength": 0.8}


def _inpaint(wish: Wish) -> dict[str, Any]:
    return {**_from_image(wish), "mask_image": inputs.mask(wish, 32)}


def _control(wish: Wish) -> dict[str, Any]:
    return {**_text(wish), "control_image": inputs.image(wish, 32)}


def edit_parts() -> dict[str, Any]:
    """What is edited is made a million pixels large: few latents of it."""
    return parts(halvings=6)


def edit(wish: Wish) -> dict[str, Any]:
    return {**_text(wish), "height": 256, "width": 256, "image": inputs.image(wish, 32)}


def layers() -> dict[str, Any]:
    """What is made into layers is made 640² pixels large. Latents with as many channels as an image
    would be taken for one."""
    shape = _SHAPE | {"in_channels": 32, "out_channels": 8}
    return parts(halvings=6) | {
        "vae": autoencoders.qwen_image(z_dim=8, halvings=6, channels=4),
        "transformer": df.QwenImageTransformer2DModel(
            **shape, use_additional_t_cond=True, use_layer3d_rope=True
        ),
    }


def layer_inputs(wish: Wish) -> dict[str, Any]:
    size = {name: value for name, value in _text(wish).items() if name not in {"height", "width"}}
    return {**size, "image": inputs.image(wish, 32).convert("RGBA"), "layers": 2}


CASES = (
    Case("qwen-image", "QwenImagePipeline", parts, _text),
    Case("qwen-image", "QwenImageImg2ImgPipeline", parts, _from_image),
    Case("qwen-image", "QwenImageInpaintPipeline", parts, _inpaint),
    Case("qwen-image", "QwenImageControlNetPipeline", parts, _control),
    Case(
        "qwen-image",
        "QwenImageControlNetInpaintPipeline",
        lambda: parts(extra=4),
        lambda wish: {**_control(wish), "control_mask": inputs.mask(wish, 32)},
    ),
    Case("qwen-image", "QwenImageEditPipeline", edit_parts, edit, heavy=True),
    Case("qwen-image", "QwenImageEditPlusPipeline", edit_parts, edit, heavy=True),
    Case("qwen-image", "QwenImageEditInpaintPipeline", edit_parts, _inpaint, heavy=True),
    Case("qwen-image", "QwenImageLayeredPipeline", layers, layer_inputs, heavy=True),
)
