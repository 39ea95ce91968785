"""PixArt, DiT and the other early image transformers."""

from __future__ import annotations

from typing import Any

import diffusers as df

from tests.engine.conformance import autoencoders, inputs, text_encoders, tokenizers
from tests.engine.conformance.case import Case, Wish
from tests.engine.conformance.families import sd


def parts(**more: Any) -> dict[str, Any]:
    transformer = df.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
    )
    return {
        "transformer": transformer,
        "vae": autoencoders.kl(),
        "scheduler": df.DDIMScheduler(clip_sample=False),
        "text_encoder": text_encoders.t5(),
        "tokenizer": tokenizers.t5(),
        **more,
    }


def _call(_: Wish) -> dict[str, Any]:
    return {
        "height": 16,
        "width": 16,
        "use_resolution_binning": False,
        "clean_caption": False,
        "max_sequence_length": 16,
    }


def _dit() -> dict[str, Any]:
    transformer = df.DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
    )
    return {
        "transformer": transformer,
        "vae": autoencoders.kl(),
        "scheduler": df.DDIMScheduler(clip_sample=False),
    }


_HUNYUAN = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "hidden_size": 16,
    "cross_attention_dim": 32,
    "cross_attention_dim_t5": 32,
    "pooled_projection_dim": 16,
    "text_len": 77,
    "text_len_t5": 256,
    "use_style_cond_and_image_meta_size": True,
}


def _hunyuan(**more: Any) -> dict[str, Any]:
    return {
        "transformer": df.HunyuanDiT2DModel(num_layers=2, **_HUNYUAN),
        "controlnet": df.HunyuanDiT2DControlNetModel(transformer_num_layers=2, **_HUNYUAN),
        "vae": autoencoders.kl(),
        "scheduler": df.DDPMScheduler(),
        "text_encoder": text_encoders.bert(),
        "tokenizer": tokenizers.words(77, ends=True),
        "text_encoder_2": text_encoders.t5(),
        "tokenizer_2": tokenizers.t5(),
        **more,
    }


def _hunyuan_call(wish: Wish) -> dict[str, Any]:
    return {**sd.text(wish), "use_resolution_binning": False}


def _aura() -> dict[str, Any]:
    transformer = df.AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pos_embed_max_size=256,
    )
    return {
        "transformer": transformer,
        "vae": autoencoders.kl(),
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "text_encoder": text_encoders.umt5(),
        "tokenizer": tokenizers.t5(),
    }


def _latte() -> dict[str, Any]:
    transformer = df.LatteTransformer3DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        video_length=1,
    )
    return parts(transformer=transformer)


CASES = (
    Case("pixart", "PixArtAlphaPipeline", parts, _call),
    Case("pixart", "PixArtSigmaPipeline", parts, _call),
    Case("pixart", "PixArtSigmaPAGPipeline", lambda: parts(pag_applied_layers=["blocks.1"]), _call),
    Case(
        "dit",
        "DiTPipeline",
        _dit,
        lambda wish: {"class_labels": [wish.seed], "output_type": "np"},
    ),
    Case("hunyuandit", "HunyuanDiTPipeline", _hunyuan, _hunyuan_call),
    Case(
        "hunyuandit",
        "HunyuanDiTPAGPipeline",
        lambda: _hunyuan(pag_applied_layers=["blocks.1"]),
        _hunyuan_call,
    ),
    Case(
        "hunyuandit",
        "HunyuanDiTControlNetPipeline",
        _hunyuan,
        lambda wish: {**_hunyuan_call(wish), "control_image": inputs.image(wish)},
    ),
    Case(
        "auraflow",
        "AuraFlowPipeline",
        _aura,
        lambda wish: {**sd.text(wish), "max_sequence_length": 16},
    ),
    Case(
        "latte",
        "LattePipeline",
        _latte,
        lambda wish: {**sd.text(wish), "video_length": 1, "clean_caption": False},
    ),
)
