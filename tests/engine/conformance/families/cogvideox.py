"""CogVideoX and CogView."""

from __future__ import annotations

from typing import Any

import diffusers as df

from tests.engine.conformance import (
    autoencoders,
    inputs,
    language_models,
    text_encoders,
    tokenizers,
)
from tests.engine.conformance.case import Case, Wish
from tests.engine.conformance.families import sd


def parts(in_channels: int = 4) -> dict[str, Any]:
    transformer = df.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=in_channels,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=32,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=16,
    )
    return {
        "scheduler": df.CogVideoXDDIMScheduler(),
        "vae": autoencoders.cogvideox(),
        "text_encoder": text_encoders.t5(),
        "tokenizer": tokenizers.t5(),
        "transformer": transformer,
    }


def _size(_: Wish) -> dict[str, Any]:
    return {"height": 16, "width": 16, "num_frames": 8, "max_sequence_length": 16}


def _from_video(wish: Wish) -> dict[str, Any]:
    return {
        "height": 16,
        "width": 16,
        "max_sequence_length": 16,
        "video": inputs.video(wish, 9),
        "strength": 0.8,
    }


def _control(wish: Wish) -> dict[str, Any]:
    return {
        "height": 16,
        "width": 16,
        "max_sequence_length": 16,
        "control_video": inputs.video(wish, 9),
    }


def _cogview3() -> dict[str, Any]:
    transformer = df.CogView3PlusTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=16,
        sample_size=8,
    )
    return {
        "scheduler": df.CogVideoXDDIMScheduler(),
        "vae": autoencoders.kl(),
        "text_encoder": text_encoders.t5(),
        "tokenizer": tokenizers.t5(),
        "transformer": transformer,
    }


def _cogview4(in_channels: int = 4) -> dict[str, Any]:
    transformer = df.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=in_channels,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=4,
        out_channels=4,
        text_embed_dim=language_models.WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        rope_axes_dim=(16, 16),
        sample_size=8,
    )
    return {
        "scheduler": df.FlowMatchEulerDiscreteScheduler(
            base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True
        ),
        "vae": autoencoders.kl(),
        "text_encoder": language_models.glm(),
        "tokenizer": tokenizers.words(side="left", ends=True),
        "transformer": transformer,
    }


def _cogview_call(wish: Wish) -> dict[str, Any]:
    return {**sd.text(wish), "max_sequence_length": 16}


CASES = (
    Case("cogvideox", "CogVideoXPipeline", parts, _size),
    Case(
        "cogvideox",
        "CogVideoXImageToVideoPipeline",
        lambda: parts(8),
        lambda wish: {**_size(wish), "image": inputs.image(wish), "num_frames": 9},
    ),
    Case("cogvideox", "CogVideoXVideoToVideoPipeline", parts, _from_video),
    Case("cogvideox", "CogVideoXFunControlPipeline", lambda: parts(8), _control),
    Case("cogview", "CogView3PlusPipeline", _cogview3, _cogview_call),
    Case("cogview", "CogView4Pipeline", _cogview4, _cogview_call),
    Case(
        "cogview",
        "CogView4ControlPipeline",
        lambda: _cogview4(8),
        lambda wish: {**_cogview_call(wish), "control_image": inputs.image(wish)},
    ),
)
