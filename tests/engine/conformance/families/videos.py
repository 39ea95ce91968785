"""Video models that are each a family of their own."""

from __future__ import annotations

from typing import Any

import diffusers as df
from diffusers.guiders import ClassifierFreeGuidance

from tests.engine.conformance import (
    autoencoders,
    inputs,
    language_models,
    processors,
    text_encoders,
    tokenizers,
    vision_encoders,
)
from tests.engine.conformance.case import Case, Wish
from tests.engine.conformance.families import wan

_LLM = language_models.WIDTH


def _kandinsky5(*, videos: bool, seen: bool) -> dict[str, Any]:
    transformer = df.Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=_LLM,
        in_text_dim2=32,
        time_dim=16,
        model_dim=32,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 6, 6),
        visual_cond=seen,
    )
    return {
        "transformer": transformer,
        "vae": autoencoders.hunyuan_video() if videos else autoencoders.kl(blocks=4),
        "text_encoder": language_models.qwen25_vl(),
        "tokenizer": processors.texts_and_images(),
        "text_encoder_2": text_encoders.clip(tokens=77),
        "tokenizer_2": tokenizers.clip(77),
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
    }


def _sana_video() -> dict[str, Any]:
    transformer = df.SanaVideoTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=_LLM,
        mlp_ratio=2.5,
        sample_size=8,
        patch_size=(1, 2, 2),
        rope_max_seq_len=32,
    )
    return {
        "transformer": transformer,
        "vae": autoencoders.wan(),
        "text_encoder": language_models.gemma2(),
        "tokenizer": tokenizers.words(ends=True),
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
    }


def _anyflow(transformer: Any = df.AnyFlowTransformer3DModel) -> dict[str, Any]:
    shape = {name: value for name, value in wan.SHAPE.items() if name != "qk_norm"}
    return wan.parts(
        transformer=transformer(**shape, in_channels=16),
        scheduler=df.FlowMapEulerDiscreteScheduler(),
    )


def _motif(*, seen: bool = False) -> dict[str, Any]:
    """The texts are read by an UMT5 in place of a T5Gemma 2."""
    transformer = df.MotifVideoTransformer3DModel(
        in_channels=33,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        text_embed_dim=32,
        rope_axes_dim=(4, 6, 6),
        image_embed_dim=32 if seen else None,
    )
    parts = wan.parts(
        transformer=transformer,
        guider=ClassifierFreeGuidance(guidance_scale=2.0),
        feature_extractor=vision_encoders.siglip_processor(),
    )
    if seen:
        parts["text_encoder"].vision_tower = vision_encoders.siglip()
    return parts


def _chronoedit() -> dict[str, Any]:
    return wan.parts(
        transformer=df.ChronoEditTransformer3DModel(**wan.SHAPE, in_channels=36, image_dim=32),
        image_encoder=vision_encoders.clip("CLIPVisionModel"),
        image_processor=vision_encoders.clip_processor(),
    )


def helios(scheduler: Any = None) -> dict[str, Any]:
    shape = {name: value for name, value in wan.SHAPE.items() if name != "rope_max_seq_len"}
    return wan.parts(
        transformer=df.HeliosTransformer3DModel(**shape, in_channels=16, rope_dim=(4, 4, 4)),
        scheduler=scheduler
        or df.HeliosScheduler(stage_range=[0, 1], stages=1, use_flow_sigmas=True),
    )


def _text(_: Wish) -> dict[str, Any]:
    return {"height": 16, "width": 16, "max_sequence_length": 32}


def _seen(wish: Wish) -> dict[str, Any]:
    return {**_text(wish), "max_sequence_length": 256, "image": inputs.image(wish)}


def _sana_call(wish: Wish) -> dict[str, Any]:
    return {
        "height": 32,
        "width": 32,
        "frames": 5,
        "use_resolution_binning": False,
        "complex_human_instruction": None,
        "max_sequence_length": 16,
    }


CASES = (
    Case(
        "kandinsky5",
        "Kandinsky5T2VPipeline",
        lambda: _kandinsky5(videos=True, seen=True),
        lambda wish: {**_text(wish), "num_frames": 5},
    ),
    Case(
        "kandinsky5",
        "Kandinsky5T2IPipeline",
        lambda: _kandinsky5(videos=False, seen=False),
        _text,
        {"resolutions": [(16, 16)]},
    ),
    Case(
        "kandinsky5",
        "Kandinsky5I2IPipeline",
        lambda: _kandinsky5(videos=False, seen=True),
        _seen,
        {"resolutions": [(16, 16)], "prompt_template_encode_start_idx": 2},
    ),
    Case("sana", "SanaVideoPipeline", _sana_video, _sana_call),
    Case(
        "sana",
        "SanaImageToVideoPipeline",
        _sana_video,
        lambda wish: {**_sana_call(wish), "image": inputs.image(wish, 32)},
    ),
    Case("motif", "MotifVideoPipeline", _motif, wan.size),
    Case(
        "motif",
        "MotifVideoImage2VideoPipeline",
        lambda: _motif(seen=True),
        lambda wish: {**wan.size(wish), "image": inputs.image(wish)},
    ),
    Case("anyflow", "AnyFlowPipeline", _anyflow, wan.size),
    Case(
        "anyflow",
        "AnyFlowFARPipeline",
        lambda: _anyflow(df.AnyFlowFARTransformer3DModel),
        lambda wish: {**wan.size(wish), "chunk_partition": [1, 1]},
    ),
    Case(
        "chronoedit",
        "ChronoEditPipeline",
        _chronoedit,
        lambda wish: {**wan.size(wish), "image": inputs.image(wish)},
    ),
    Case(
        "helios",
        "HeliosPipeline",
        helios,
        lambda wish: {**wan.size(wish), "num_latent_frames_per_chunk": 2},
    ),
)
