"""Tiny language models that pipelines read texts with."""

from __future__ import annotations

from typing import Any

import transformers as tf

from tests.engine.conformance import tokenizers, vision_encoders
from tests.engine.conformance.tokenizers import VOCABULARY

WIDTH = 32
HEAD = 8  # times 4 heads


def _decoder(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": HEAD,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        **more,
    }


def llama(kind: str = "LlamaModel", **more: Any) -> Any:
    return getattr(tf, kind)(tf.LlamaConfig(**_decoder(**more)))


def llava(side: int, **more: Any) -> Any:
    """Looks at images of ``side`` pixels, and sees every pixel as a token."""
    text = _decoder(**more)
    eyes = vision_encoders.clip("CLIPVisionModel", side=side, patch=1).config
    config = tf.LlavaConfig(
        vision_config=eyes,
        text_config=tf.LlamaConfig(**text),
        image_token_index=tokenizers.words().convert_tokens_to_ids(tokenizers.IMAGE),
        pad_token_id=text["pad_token_id"],
    )
    return tf.LlavaForConditionalGeneration(config)


def qwen3(kind: str = "Qwen3Model", **more: Any) -> Any:
    return getattr(tf, kind)(tf.Qwen3Config(**_decoder(**more)))


def gemma(**more: Any) -> Any:
    return tf.GemmaModel(tf.GemmaConfig(**_decoder(**more)))


def gemma2(**more: Any) -> Any:
    return tf.Gemma2Model(tf.Gemma2Config(**_decoder(query_pre_attn_scalar=HEAD, **more)))


def glm(**more: Any) -> Any:
    return tf.GlmModel(tf.GlmConfig(**_decoder(**more)))


def smollm3(**more: Any) -> Any:
    return tf.SmolLM3ForCausalLM(tf.SmolLM3Config(**_decoder(**more)))


def _vision(width: int = WIDTH) -> dict[str, Any]:
    return {
        "depth": 1,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 8,
        "fullatt_block_indexes": [0],
        "out_hidden_size": width,
    }


_ROPE = {"type": "default", "rope_type": "default", "mrope_section": [1, 1, 2]}
_IDS = {
    "vision_start_token_id": 7,
    "vision_end_token_id": 8,
    "image_token_id": 9,
    "video_token_id": 10,
}


def qwen25_vl(**more: Any) -> Any:
    text = _decoder(**more)
    del text["head_dim"]
    config = tf.Qwen2_5_VLConfig(
        text_config={
            **text,
            "rope_scaling": _ROPE,
            "rope_parameters": {**_ROPE, "rope_theta": 1e4},
        },
        vision_config=_vision(text["hidden_size"]),
        **_IDS,
    )
    return tf.Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl(kind: str = "Qwen3VLForConditionalGeneration", **more: Any) -> Any:
    text = _decoder(**more)
    config = tf.Qwen3VLConfig(
        text_config={
            **text,
            "rope_scaling": _ROPE,
            "rope_parameters": {**_ROPE, "rope_theta": 1e4},
        },
        vision_config={**_small_vision(text["hidden_size"]), "deepstack_visual_indexes": [0]},
        **_IDS,
    )
    return getattr(tf, kind)(config)


def qwen35(**more: Any) -> Any:
    """Writes texts: ordinary words only, never an end, so that all of its texts are as long as is
    allowed."""
    text = _decoder(**more)
    config = tf.Qwen3_5Config(
        text_config={
            **text,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_key_head_dim": HEAD,
            "linear_value_head_dim": HEAD,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "rope_parameters": {
                **_ROPE,
                "rope_theta": 1e4,
                "partial_rotary_factor": 1.0,
                "mrope_interleaved": True,
            },
        },
        vision_config=_small_vision(text["hidden_size"]),
        **_IDS,
    )
    model = tf.Qwen3_5ForConditionalGeneration(config)
    tokenizer = tokenizers.words()
    unknown = range(len(tokenizer), VOCABULARY)
    model.generation_config.suppress_tokens = [*tokenizer.all_special_ids, *unknown]
    model.generation_config.pad_token_id = text["pad_token_id"]
    return model


def _small_vision(width: int) -> dict[str, Any]:
    return {
        "depth": 1,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 16,
        "out_hidden_size": width,
    }


def masked() -> Any:
    """Fills in words that are masked, from those on both sides."""
    config = tf.BertConfig(
        vocab_size=len(tokenizers.words()),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=512,
        pad_token_id=0,
    )
    return tf.BertForMaskedLM(config)


def diffusion_gemma(**more: Any) -> Any:
    """Makes texts by canvases of 8 words."""
    text = _decoder(vocab_size=len(tokenizers.words()), **more)
    config = tf.DiffusionGemmaConfig(
        text_config={
            **text,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_experts": 2,
            "top_k_experts": 1,
            "moe_intermediate_size": 16,
            "global_head_dim": HEAD,
            "num_global_key_value_heads": 2,
        },
        vision_config={
            "model_type": "gemma4_vision",
            "hidden_size": WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 32,
            "patch_size": 4,
        },
        canvas_length=8,
    )
    return tf.DiffusionGemmaForBlockDiffusion(config)
