"""Tiny UNets and what steers them."""

from __future__ import annotations

from typing import Any

import diffusers as df

CHANNELS = (8, 16)
_CROSS = ("DownBlock2D", "CrossAttnDownBlock2D")
_UP = ("CrossAttnUpBlock2D", "UpBlock2D")


def _conditioned(cross_attention_dim: int) -> dict[str, Any]:
    return {
        "block_out_channels": CHANNELS,
        "layers_per_block": 1,
        "down_block_types": _CROSS,
        "cross_attention_dim": cross_attention_dim,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }


def _xl(text_width: int, ids: int) -> dict[str, Any]:
    return {
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "transformer_layers_per_block": (1, 1),
        "projection_class_embeddings_input_dim": 8 * ids + text_width,
    }


def sd(in_channels: int = 4, cross_attention_dim: int = 32, **more: Any) -> Any:
    return df.UNet2DConditionModel(
        **{
            **_conditioned(cross_attention_dim),
            "sample_size": 8,
            "in_channels": in_channels,
            "out_channels": 4,
            "up_block_types": _UP,
            **more,
        }
    )


def of_video() -> Any:
    return df.UNet3DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def sdxl(in_channels: int = 4, *, ids: int = 6, **more: Any) -> Any:
    """``ids``: numbers of size and crop in a call; 5 with an aesthetic score."""
    return sd(in_channels, 64, **_xl(32, ids), **more)


def controlnet(**more: Any) -> Any:
    return df.ControlNetModel(
        **{**_conditioned(32), "conditioning_embedding_out_channels": (8, 16), **more}
    )


def controlnet_xl(ids: int = 6, **more: Any) -> Any:
    return controlnet(cross_attention_dim=64, **_xl(32, ids), **more)


def controlnet_union(ids: int = 6) -> Any:
    return df.ControlNetUnionModel(
        **_conditioned(64),
        **_xl(32, ids),
        conditioning_embedding_out_channels=(8, 16),
        num_trans_channel=8,
        num_trans_head=2,
        num_trans_layer=1,
        num_proj_channel=8,
    )


def unconditional(**more: Any) -> Any:
    return df.UNet2DModel(
        **{
            "block_out_channels": CHANNELS,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "sample_size": 8,
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            **more,
        }
    )


def motion_adapter() -> Any:
    return df.MotionAdapter(
        block_out_channels=CHANNELS,
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
    )
