"""Flux: text to image and its variants over one transformer."""

from __future__ import annotations

from typing import Any

import diffusers as df
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

from tests.engine.conformance import (
    autoencoders,
    inputs,
    text_encoders,
    tokenizers,
    vision_encoders,
)
from tests.engine.conformance.case import Case, Wish

_SIZE = {"height": 16, "width": 16, "max_sequence_length": 16}
_ROPE = (4, 4, 8)


def transformer(in_channels: int = 16, **more: Any) -> Any:
    return df.FluxTransformer2DModel(
        **{
            "in_channels": in_channels,
            "out_channels": 16,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 32,
            "axes_dims_rope": _ROPE,
            **more,
        }
    )


def controlnet() -> Any:
    return df.FluxControlNetModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=_ROPE,
    )


def parts(in_channels: int = 16, *, guidance: bool = True) -> dict[str, Any]:
    return {
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "vae": autoencoders.kl_flow(),
        "text_encoder": text_encoders.clip(),
        "tokenizer": tokenizers.clip(),
        "text_encoder_2": text_encoders.t5(),
        "tokenizer_2": tokenizers.t5(),
        "transformer": transformer(in_channels, guidance_embeds=guidance),
        "controlnet": controlnet(),
        "resolution": 16,
    }


def redux() -> dict[str, Any]:
    return {
        **parts(),
        "image_encoder": vision_encoders.siglip(),
        "feature_extractor": vision_encoders.siglip_processor(),
        "image_embedder": ReduxImageEncoder(redux_dim=32, txt_in_features=32),
    }


def _text(_: Wish) -> dict[str, Any]:
    return _SIZE


def _from_image(wish: Wish) -> dict[str, Any]:
    return {**_SIZE, "image": inputs.image(wish), "strength": 0.8}


def _inpaint(wish: Wish) -> dict[str, Any]:
    return {**_from_image(wish), "mask_image": inputs.mask(wish)}


def _like(wish: Wish) -> dict[str, Any]:
    return {**_SIZE, "image": inputs.image(wish)}


def _fill(wish: Wish) -> dict[str, Any]:
    return {**_SIZE, "image": inputs.image(wish), "mask_image": inputs.mask(wish)}


def _control(wish: Wish) -> dict[str, Any]:
    return {**_SIZE, "control_image": inputs.image(wish)}


def _kontext(wish: Wish) -> dict[str, Any]:
    return {**_SIZE, "image": inputs.image(wish), "max_area": 16 * 16, "_auto_resize": False}


def _kontext_inpaint(wish: Wish) -> dict[str, Any]:
    return {**_kontext(wish), "mask_image": inputs.mask(wish), "strength": 0.8}


_ENLARGED = {"upsampling_height": 32, "upsampling_width": 32}


def _visual_cloze(wish: Wish) -> dict[str, Any]:
    """One example, and a row whose second image is to be made."""
    shown = inputs.image(wish)
    return {
        "task_prompt": "a task",
        "content_prompt": wish.prompt,
        "image": [[shown, shown], [shown, None]],
        "max_sequence_length": 16,
    }


CASES = (
    Case("flux", "FluxPipeline", parts, _text),
    Case("flux", "FluxImg2ImgPipeline", parts, _from_image),
    Case("flux", "FluxInpaintPipeline", parts, _inpaint),
    Case("flux", "FluxKontextPipeline", parts, _kontext),
    Case("flux", "FluxKontextInpaintPipeline", parts, _kontext_inpaint),
    Case("flux", "FluxReduxPipeline", redux, _like),
    Case("flux", "FluxFillPipeline", lambda: parts(48), _fill),
    Case("flux", "VisualClozeGenerationPipeline", lambda: parts(48), _visual_cloze),
    Case(
        "flux",
        "VisualClozePipeline",
        lambda: parts(48),
        lambda wish: {**_visual_cloze(wish), "upsampling_strength": 0.6, **_ENLARGED},
    ),
    Case("flux", "FluxControlPipeline", lambda: parts(32), _control),
    Case(
        "flux",
        "FluxControlImg2ImgPipeline",
        lambda: parts(32),
        lambda wish: {**_from_image(wish), **_control(wish)},
    ),
    Case(
        "flux",
        "FluxControlInpaintPipeline",
        lambda: parts(32),
        lambda wish: {**_inpaint(wish), **_control(wish)},
    ),
    Case("flux", "FluxControlNetPipeline", parts, _control),
    Case(
        "flux",
        "FluxControlNetPipeline",
        lambda: {**parts(), "controlnet": [controlnet(), controlnet()]},
        lambda wish: {
            **_SIZE,
            "control_image": [inputs.image(wish), inputs.mask(wish).convert("RGB")],
            "controlnet_conditioning_scale": [0.5, 1.0],
        },
        variant="two ControlNets",
    ),
    Case(
        "flux",
        "FluxPipeline",
        parts,
        lambda _: {**_SIZE, "true_cfg_scale": 3.0, "negative_prompt": "a dog"},
        variant="true guidance",
    ),
    Case(
        "flux",
        "FluxControlNetImg2ImgPipeline",
        parts,
        lambda wish: {**_from_image(wish), **_control(wish)},
    ),
    Case(
        "flux",
        "FluxControlNetInpaintPipeline",
        parts,
        lambda wish: {**_inpaint(wish), **_control(wish)},
    ),
)
