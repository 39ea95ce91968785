"""Pipelines that denoise pixels: DeepFloyd IF and the unconditional ones."""

from __future__ import annotations

from typing import Any

import diffusers as df

from tests.engine.conformance import autoencoders, inputs, text_encoders, tokenizers, unets
from tests.engine.conformance.case import Case, Wish


def _solver() -> Any:
    return df.DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range")


def parts(in_channels: int = 3, **more: Any) -> dict[str, Any]:
    unet = unets.sd(
        in_channels,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        encoder_hid_dim=32,
        encoder_hid_dim_type="text_proj",
        cross_attention_dim=32,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        resnet_skip_time_act=True,
        act_fn="gelu",
        time_embedding_act_fn="gelu",
        **more,
    )
    return {
        "unet": unet,
        "scheduler": _solver(),
        "image_noising_scheduler": df.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "text_encoder": text_encoders.t5(),
        "tokenizer": tokenizers.t5(77),
    }


def _larger() -> dict[str, Any]:
    return parts(6, class_embed_type="timestep")


def _text(_: Wish) -> dict[str, Any]:
    return {"clean_caption": False, "height": 8, "width": 8}


def _from_image(wish: Wish) -> dict[str, Any]:
    return {"clean_caption": False, "image": inputs.image_tensor(wish, 8), "strength": 0.8}


def _to_larger(wish: Wish) -> dict[str, Any]:
    return {
        "clean_caption": False,
        "image": inputs.image_tensor(wish, 8),
        "height": 16,
        "width": 16,
    }


def _mask(wish: Wish, side: int) -> dict[str, Any]:
    return {"mask_image": inputs.image_tensor(wish, side)[:, :1].round()}


def _free(**more: Any) -> Any:
    return lambda: {"unet": unets.unconditional(), **more}


CASES = (
    Case("if", "IFPipeline", parts, _text),
    Case("if", "IFImg2ImgPipeline", parts, _from_image),
    Case(
        "if",
        "IFInpaintingPipeline",
        parts,
        lambda wish: {**_from_image(wish), **_mask(wish, 8)},
    ),
    Case("if", "IFSuperResolutionPipeline", _larger, _to_larger),
    Case(
        "if",
        "IFImg2ImgSuperResolutionPipeline",
        _larger,
        lambda wish: {
            "clean_caption": False,
            "image": inputs.image_tensor(wish, 8),
            "original_image": inputs.image_tensor(wish, 16),
            "strength": 0.8,
        },
    ),
    Case(
        "if",
        "IFInpaintingSuperResolutionPipeline",
        _larger,
        lambda wish: {
            "clean_caption": False,
            "image": inputs.image_tensor(wish, 8),
            "original_image": inputs.image_tensor(wish, 16),
            **_mask(wish, 16),
            "strength": 0.8,
        },
    ),
    Case(
        "unconditional",
        "DDPMPipeline",
        _free(scheduler=df.DDPMScheduler()),
        lambda _: {"output_type": "np"},
    ),
    Case(
        "unconditional",
        "DDIMPipeline",
        _free(scheduler=df.DDIMScheduler()),
        lambda _: {"output_type": "np"},
    ),
    Case(
        "unconditional",
        "ConsistencyModelPipeline",
        _free(
            scheduler=df.CMStochasticIterativeScheduler(
                num_train_timesteps=40, sigma_min=0.002, sigma_max=80.0
            )
        ),
        lambda _: {"output_type": "np"},
    ),
    Case(
        "unconditional",
        "LDMSuperResolutionPipeline",
        lambda: {
            "vqvae": autoencoders.vq(latent_channels=3),
            "unet": unets.unconditional(in_channels=6),
            "scheduler": df.DDIMScheduler(clip_sample=False),
        },
        lambda wish: {"image": inputs.image(wish, 32), "output_type": "np"},
    ),
)
