"""Pipelines of the sizes that people run, with random weights: what a forward costs does not depend
on what the weights are. Text encoders are left out; calls bring random embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)


@dataclass(frozen=True, slots=True)
class Case:
    """A pipeline and a call of it."""

    name: str
    make: Callable[[bool], Any]  # tiny → the pipeline, on the default device
    denoiser: str  # its component
    steps: int
    call: Callable[[Any, bool], Mapping[str, Any]]  # pipeline, tiny → arguments but for the noise


def _solver(kind: type, **settings: Any) -> Any:
    """Solver in float32 on the host, where it computes, wherever the weights are made."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            return kind(**settings)
    finally:
        torch.set_default_dtype(usual)


def flux(*, tiny: bool, guidance: bool) -> Any:
    sizes: dict[str, Any] = (
        {
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 32,
            "axes_dims_rope": (4, 4, 8),
        }
        if tiny
        else {}
    )
    return _without_text(
        FluxPipeline,
        scheduler=_solver(FlowMatchEulerDiscreteScheduler, use_dynamic_shifting=guidance),
        vae=image_vae(16, tiny=tiny, scaling_factor=0.3611, shift_factor=0.1159),
        transformer=FluxTransformer2DModel(guidance_embeds=guidance, **sizes).eval(),
    )


def flux_call(pipeline: Any, side: int) -> Mapping[str, Any]:
    config = pipeline.transformer.config
    return {
        "prompt_embeds": _noise(1, 512, config.joint_attention_dim),
        "pooled_prompt_embeds": _noise(1, config.pooled_projection_dim),
        "width": side,
        "height": side,
        "guidance_scale": 3.5,
    }


def sdxl(*, tiny: bool) -> Any:
    """Stable Diffusion XL base, by its published configuration."""
    sizes: dict[str, Any] = {
        "block_out_channels": (32, 64, 64) if tiny else (320, 640, 1280),
        "layers_per_block": 1 if tiny else 2,
        "attention_head_dim": (2, 4, 4) if tiny else (5, 10, 20),
        "transformer_layers_per_block": 1 if tiny else (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    }
    unet = UNet2DConditionModel(
        **sizes,
        in_channels=4,
        out_channels=4,
        sample_size=128,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        cross_attention_dim=2048,
    )
    return _without_text(
        StableDiffusionXLPipeline,
        scheduler=_solver(
            EulerDiscreteScheduler,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
        ),
        vae=image_vae(4, tiny=tiny, scaling_factor=0.13025),
        unet=unet.eval(),
        add_watermarker=False,
    )


def sdxl_call(_: Any, side: int) -> Mapping[str, Any]:
    return {
        "prompt_embeds": _noise(1, 77, 2048),
        "negative_prompt_embeds": _noise(1, 77, 2048),
        "pooled_prompt_embeds": _noise(1, 1280),
        "negative_pooled_prompt_embeds": _noise(1, 1280),
        "width": side,
        "height": side,
        "guidance_scale": 7.5,
    }


def wan(*, tiny: bool, large: bool = False) -> Any:
    """Wan 2.1 of 1.3 billion parameters, or of 14, by its published configuration."""
    sizes: dict[str, Any] = {}  # the class's defaults are the large one
    if tiny:
        sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2}
    elif not large:
        sizes = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
    vae_sizes: dict[str, Any] = {"base_dim": 4, "num_res_blocks": 1} if tiny else {}
    return _without_text(
        WanPipeline,
        vae=AutoencoderKLWan(**vae_sizes).eval(),
        scheduler=_solver(
            UniPCMultistepScheduler,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=3.0,
        ),
        transformer=WanTransformer3DModel(**sizes).eval(),
    )


def wan_call(_: Any, *, tiny: bool) -> Mapping[str, Any]:
    return {
        "prompt_embeds": _noise(1, 512, 4096),
        "negative_prompt_embeds": _noise(1, 512, 4096),
        "width": 32 if tiny else 832,
        "height": 32 if tiny else 480,
        "num_frames": 5 if tiny else 81,
        "guidance_scale": 5.0,
    }


def cases() -> tuple[Case, ...]:
    """In the order of their worth, for when time runs out."""

    def of_flux(name: str, side: int, steps: int) -> Case:
        return Case(
            name,
            lambda tiny: flux(tiny=tiny, guidance=steps > 4),
            "transformer",
            steps,
            lambda pipeline, tiny: flux_call(pipeline, 32 if tiny else side),
        )

    def of_sdxl(side: int) -> Case:
        return Case(
            f"sdxl-{side}",
            lambda tiny: sdxl(tiny=tiny),
            "unet",
            30,
            lambda pipeline, tiny: sdxl_call(pipeline, 32 if tiny else side),
        )

    return (
        of_flux("flux-dev-1024", 1024, 28),
        of_sdxl(1024),
        of_flux("flux-schnell-1024", 1024, 4),
        of_sdxl(512),
        of_flux("flux-schnell-512", 512, 4),
        of_flux("flux-dev-512", 512, 28),
        Case(
            "wan-1.3b-480p-81f",
            lambda tiny: wan(tiny=tiny),
            "transformer",
            20,
            lambda pipeline, tiny: wan_call(pipeline, tiny=tiny),
        ),
    )


def _without_text(kind: Any, **components: Any) -> Any:
    """A pipeline of ``kind`` whose other components are absent."""
    absent = dict.fromkeys(("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2"))
    takes = signature(kind.__init__).parameters
    return kind(**{name: None for name in absent if name in takes}, **components)


def image_vae(latent_channels: int, *, tiny: bool, **scales: float) -> AutoencoderKL:
    sizes: dict[str, Any] = {
        "block_out_channels": (16, 16, 16, 16) if tiny else (128, 256, 512, 512),
        "layers_per_block": 1 if tiny else 2,
        "norm_num_groups": 8 if tiny else 32,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "use_quant_conv": latent_channels == 4,
        "use_post_quant_conv": latent_channels == 4,
        **scales,
    }
    return AutoencoderKL(latent_channels=latent_channels, **sizes).eval()


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape) * 0.1
