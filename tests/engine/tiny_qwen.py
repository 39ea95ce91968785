"""Tiny untrained pipelines of the classes whose text encoder is a Qwen, made as in ``tiny``."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from tests.engine.tiny import ready, tiny_vae

WIDTH = 32  # of the text
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_z_image() -> ZImagePipeline:
    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 64, 64],
    )
    # Made empty, for trained weights to be put in.
    torch.nn.init.normal_(transformer.x_pad_token, std=0.02)
    torch.nn.init.normal_(transformer.cap_pad_token, std=0.02)
    pipeline = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(latent_channels=4),
        text_encoder=_qwen3(Qwen3Model),
        tokenizer=_tokenizer(),
        transformer=transformer,
    )
    return ready(pipeline)


def tiny_qwen_image(*, layers: int = 1) -> QwenImagePipeline:
    torch.manual_seed(0)
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    pipeline = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=_qwen25_vl(),
        tokenizer=_tokenizer(),
        transformer=transformer,
    )
    return ready(pipeline)


def tiny_flux2_klein() -> Flux2KleinPipeline:
    """Distilled, as the one that the catalogue names: no guidance."""
    torch.manual_seed(0)
    layers = 28  # the pipeline reads three of its text encoder's layers, the 27th the last
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=_qwen3(Qwen3ForCausalLM, layers),
        tokenizer=_tokenizer(),
        transformer=transformer,
        is_distilled=True,
    )
    return ready(pipeline)


def _qwen3(kind: type, layers: int = 2) -> Any:
    return kind(
        Qwen3Config(
            vocab_size=300,
            hidden_size=WIDTH,
            intermediate_size=37,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=1024,
            pad_token_id=256,
            bos_token_id=256,
            eos_token_id=258,
        )
    )


def _qwen25_vl() -> Qwen2_5_VLForConditionalGeneration:
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "vocab_size": 300,
                "hidden_size": WIDTH,
                "intermediate_size": 37,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "max_position_embeddings": 2048,
                "bos_token_id": 256,
                "eos_token_id": 258,
                "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 4]},
            },
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": WIDTH,
            },
            image_token_id=259,
            video_token_id=260,
            vision_start_token_id=261,
            vision_end_token_id=262,
        )
    )


def _tokenizer() -> Qwen2Tokenizer:
    """Spells every byte."""
    letters = sorted(ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*letters, *SPECIAL])}
    return Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        extra_special_tokens=SPECIAL[1:],
        pad_token=SPECIAL[0],
        chat_template=CHAT,
    )
