"""LTX-2: videos with their audio."""

from __future__ import annotations

from typing import Any

import diffusers as df
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora import LTX2ReferenceCondition
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

from tests.engine.conformance import autoencoders, inputs, language_models, tokenizers
from tests.engine.conformance.case import Case, Wish

_LAYERS = 3  # hidden states of a language model of two layers


def parts(**more: Any) -> dict[str, Any]:
    """The texts are read by a Gemma 2: the vision of Gemma 3 is not called."""
    transformer = df.LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=8,
        audio_out_channels=8,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=language_models.WIDTH,
        rope_double_precision=False,
        rope_type="split",
    )
    connectors = LTX2TextConnectors(
        caption_channels=language_models.WIDTH,
        text_proj_in_factor=_LAYERS,
        video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=4,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        rope_double_precision=False,
        rope_type="split",
    )
    vocoder = LTX2Vocoder(
        in_channels=32,
        hidden_channels=32,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
    )
    return {
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "audio_scheduler": None,
        "vae": autoencoders.ltx2_video(),
        "audio_vae": autoencoders.ltx2_audio(),
        "text_encoder": language_models.gemma2(),
        "tokenizer": tokenizers.words(ends=True),
        "connectors": connectors,
        "transformer": transformer,
        "vocoder": vocoder,
        **more,
    }


def _size(_: Wish) -> dict[str, Any]:
    return {
        "height": 32,
        "width": 32,
        "num_frames": 5,
        "max_sequence_length": 16,
        "spatio_temporal_guidance_blocks": [1],
    }


def _from_image(wish: Wish) -> dict[str, Any]:
    return {**_size(wish), "image": inputs.image(wish, 32), "image_crf": 0}


def _conditions(wish: Wish) -> dict[str, Any]:
    first = LTX2VideoCondition(frames=inputs.image(wish, 32), crf=0, strength=0.8)
    later = LTX2VideoCondition(frames=inputs.video(wish, 5, 32), index=1)
    return {**_size(wish), "num_frames": 9, "conditions": [first, later]}


def _references(wish: Wish) -> dict[str, Any]:
    reference = LTX2ReferenceCondition(frames=inputs.video(wish, 5, 32), strength=0.5)
    return {**_conditions(wish), "reference_conditions": [reference]}


WITH_CONDITIONS = "with conditions"
CASES = (
    Case("ltx2", "LTX2Pipeline", parts, _size),
    Case("ltx2", "LTX2ImageToVideoPipeline", parts, _from_image),
    Case("ltx2", "LTX2ConditionPipeline", parts, _size),
    Case("ltx2", "LTX2ConditionPipeline", parts, _conditions, variant=WITH_CONDITIONS, heavy=True),
    Case("ltx2", "LTX2InContextPipeline", parts, _size),
    Case("ltx2", "LTX2InContextPipeline", parts, _references, variant=WITH_CONDITIONS, heavy=True),
)
