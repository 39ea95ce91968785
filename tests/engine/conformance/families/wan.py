"""Wan 2.1 and 2.2, and the models made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers as df

from tests.engine.conformance import (
    autoencoders,
    inputs,
    text_encoders,
    tokenizers,
    vision_encoders,
)
from tests.engine.conformance.case import Case, Wish

SHAPE = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 32,
    "num_layers": 2,
    "cross_attn_norm": True,
    "rope_max_seq_len": 32,
}


def transformer(in_channels: int = 16, **more: Any) -> Any:
    return df.WanTransformer3DModel(
        **{**SHAPE, "in_channels": in_channels, "qk_norm": "rms_norm_across_heads", **more}
    )


def parts(**more: Any) -> dict[str, Any]:
    return {
        "scheduler": df.FlowMatchEulerDiscreteScheduler(shift=7.0),
        "vae": autoencoders.wan(),
        "text_encoder": text_encoders.umt5(),
        "tokenizer": tokenizers.t5(),
        "transformer": transformer(),
        **more,
    }


def two_experts(expert: Callable[[], Any] = transformer) -> dict[str, Any]:
    return parts(
        transformer=expert(),
        transformer_2=expert(),
        boundary_ratio=0.875,
        scheduler=df.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def from_image() -> dict[str, Any]:
    return parts(
        transformer=transformer(36, image_dim=32),
        image_encoder=vision_encoders.clip("CLIPVisionModel"),
        image_processor=vision_encoders.clip_processor(),
    )


def vace_transformer() -> Any:
    return df.WanVACETransformer3DModel(
        **SHAPE, in_channels=16, vace_layers=[0], vace_in_channels=96
    )


def _vace() -> dict[str, Any]:
    return parts(transformer=vace_transformer(), transformer_2=None)


def _animate() -> dict[str, Any]:
    animate = df.WanAnimateTransformer3DModel(
        **{**SHAPE, "attention_head_dim": 12, "num_attention_heads": 2},
        in_channels=36,
        latent_channels=16,
        image_dim=32,
        motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=16,
        face_encoder_hidden_dim=16,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
    )
    return parts(
        transformer=animate,
        image_encoder=vision_encoders.clip("CLIPVisionModel"),
        image_processor=vision_encoders.clip_processor(),
        scheduler=df.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def size(_: Wish) -> dict[str, Any]:
    return {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16}


def _sky(kind: str, **more: Any) -> dict[str, Any]:
    return parts(
        transformer=df.SkyReelsV2Transformer3DModel(
            **SHAPE, in_channels=more.pop("in_channels", 16), **more
        ),
        scheduler=df.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0
        ),
        image_encoder=vision_encoders.clip(kind),
        image_processor=vision_encoders.clip_processor(),
    )


def _forcing() -> dict[str, Any]:
    return _sky("CLIPVisionModel")


def _forcing_size(wish: Wish) -> dict[str, Any]:
    return {**size(wish), "overlap_history": None, "base_num_frames": 5}


CASES = (
    Case("wan", "WanPipeline", two_experts, size),
    Case("wan", "WanPipeline", parts, size, variant="one expert"),
    Case(
        "wan",
        "WanPipeline",
        lambda: parts(expand_timesteps=True),
        size,
        variant="a timestep for each token",
    ),
    Case(
        "wan",
        "WanImageToVideoPipeline",
        from_image,
        lambda wish: {**size(wish), "image": inputs.image(wish)},
    ),
    Case(
        "wan",
        "WanVideoToVideoPipeline",
        parts,
        lambda wish: {
            "height": 16,
            "width": 16,
            "video": inputs.video(wish, 5),
            "strength": 0.8,
            "max_sequence_length": 16,
        },
    ),
    Case(
        "wan", "WanVACEPipeline", _vace, lambda wish: {**size(wish), "video": inputs.video(wish, 5)}
    ),
    Case(
        "wan",
        "WanAnimatePipeline",
        _animate,
        lambda wish: {
            "image": inputs.image(wish),
            "pose_video": inputs.video(wish, 5),
            "face_video": inputs.video(wish, 5),
            "height": 16,
            "width": 16,
            "segment_frame_length": 5,
            "max_sequence_length": 16,
            "guidance_scale": 2.0,
        },
    ),
    Case(
        "lucy",
        "LucyEditPipeline",
        lambda: parts(transformer=transformer(32)),
        lambda wish: {**size(wish), "video": inputs.video(wish, 5)},
    ),
    Case("skyreels", "SkyReelsV2Pipeline", _forcing, size),
    Case(
        "skyreels",
        "SkyReelsV2ImageToVideoPipeline",
        lambda: _sky("CLIPVisionModelWithProjection", in_channels=36, image_dim=32),
        lambda wish: {**size(wish), "image": inputs.image(wish)},
    ),
    Case("skyreels", "SkyReelsV2DiffusionForcingPipeline", _forcing, _forcing_size),
    Case(
        "skyreels",
        "SkyReelsV2DiffusionForcingImageToVideoPipeline",
        _forcing,
        lambda wish: {**_forcing_size(wish), "image": inputs.image(wish)},
    ),
    Case(
        "skyreels",
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        _forcing,
        lambda wish: {
            **_forcing_size(wish),
            "video": inputs.video(wish, 5),
            "num_frames": 9,
            "overlap_history": 1,
        },
    ),
)
