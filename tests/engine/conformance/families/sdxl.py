"""Stable Diffusion XL and Kolors' neighbours over its UNet."""

from __future__ import annotations

from typing import Any

import diffusers as df

from tests.engine.conformance import (
    autoencoders,
    inputs,
    text_encoders,
    tokenizers,
    unets,
    vision_encoders,
)
from tests.engine.conformance.case import Case, Wish
from tests.engine.conformance.families import sd


def parts(in_channels: int = 4, *, ids: int = 6, **more: Any) -> dict[str, Any]:
    return {
        "scheduler": df.EulerDiscreteScheduler(),
        "vae": autoencoders.kl(),
        "text_encoder": text_encoders.clip(),
        "tokenizer": tokenizers.clip(),
        "text_encoder_2": text_encoders.clip_projected(),
        "tokenizer_2": tokenizers.clip(),
        "unet": unets.sdxl(in_channels, ids=ids),
        "controlnet": unets.controlnet_xl(ids),
        "force_zeros_for_empty_prompt": True,
        **more,
    }


def _scored(**more: Any) -> dict[str, Any]:
    return parts(ids=5, requires_aesthetics_score=True, **more)


def _pag() -> dict[str, Any]:
    return parts(pag_applied_layers=["mid"])


def _pag_scored() -> dict[str, Any]:
    return _scored(pag_applied_layers=["mid"])


def _union() -> dict[str, Any]:
    return parts(controlnet=unets.controlnet_union())


def _union_scored() -> dict[str, Any]:
    return _scored(controlnet=unets.controlnet_union(5))


def _adapter() -> dict[str, Any]:
    adapter = df.T2IAdapter(
        in_channels=3,
        channels=list(unets.CHANNELS),
        num_res_blocks=1,
        downscale_factor=4,
        adapter_type="full_adapter_xl",
    )
    return parts(adapter=adapter)


def _sized(wish: Wish) -> dict[str, Any]:
    return {**sd.text(wish), "image": inputs.image(wish)}


def _image_and_control(wish: Wish) -> dict[str, Any]:
    size = {"original_size": (16, 16), "target_size": (16, 16)}
    return {**sd.from_image(wish), **size, "control_image": inputs.image(wish)}


def _inpaint_and_control(wish: Wish) -> dict[str, Any]:
    return {**sd.inpaint(wish), "control_image": inputs.image(wish)}


def _union_call(wish: Wish) -> dict[str, Any]:
    return {**sd.text(wish), "control_image": [inputs.image(wish)], "control_mode": [1]}


CASES = (
    Case("sdxl", "StableDiffusionXLPipeline", parts, sd.text),
    Case("sdxl", "StableDiffusionXLImg2ImgPipeline", _scored, sd.from_image),
    Case("sdxl", "StableDiffusionXLInpaintPipeline", _scored, sd.inpaint),
    Case("sdxl", "StableDiffusionXLInstructPix2PixPipeline", lambda: parts(8), _sized),
    Case("sdxl", "StableDiffusionXLAdapterPipeline", _adapter, _sized),
    Case("sdxl", "StableDiffusionXLControlNetPipeline", parts, _sized),
    Case(
        "sdxl",
        "StableDiffusionXLControlNetPipeline",
        lambda: parts(controlnet=[unets.controlnet_xl(), unets.controlnet_xl()]),
        lambda wish: {**sd.text(wish), "image": [inputs.image(wish), inputs.mask(wish)]},
        variant="two ControlNets",
    ),
    Case(
        "sdxl",
        "StableDiffusionXLPipeline",
        lambda: parts(
            image_encoder=vision_encoders.clip(),
            feature_extractor=vision_encoders.clip_processor(),
        ),
        lambda wish: {**sd.text(wish), "num_images_per_prompt": 2, "guidance_rescale": 0.5},
        variant="two images",
    ),
    Case("sdxl", "StableDiffusionXLControlNetImg2ImgPipeline", _scored, _image_and_control),
    Case("sdxl", "StableDiffusionXLControlNetInpaintPipeline", _scored, _inpaint_and_control),
    Case("sdxl", "StableDiffusionXLControlNetUnionPipeline", _union, _union_call),
    Case(
        "sdxl",
        "StableDiffusionXLControlNetUnionImg2ImgPipeline",
        _union_scored,
        lambda wish: {**sd.from_image(wish), **_union_call(wish)},
    ),
    Case(
        "sdxl",
        "StableDiffusionXLControlNetUnionInpaintPipeline",
        _union_scored,
        lambda wish: {**sd.inpaint(wish), **_union_call(wish)},
    ),
    Case("sdxl", "StableDiffusionXLPAGPipeline", _pag, sd.text),
    Case("sdxl", "StableDiffusionXLPAGImg2ImgPipeline", _pag_scored, sd.from_image),
    Case("sdxl", "StableDiffusionXLPAGInpaintPipeline", _pag_scored, sd.inpaint),
    Case("sdxl", "StableDiffusionXLControlNetPAGPipeline", _pag, _sized),
    Case("sdxl", "StableDiffusionXLControlNetPAGImg2ImgPipeline", _pag_scored, _image_and_control),
)
