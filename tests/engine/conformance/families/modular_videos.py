"""Modular pipelines of videos and audio that have no whole ones, or that take more inputs."""

from __future__ import annotations

from typing import Any

import diffusers as df
import torch
from diffusers.guiders import ClassifierFreeGuidance

from tests.engine.conformance import (
    autoencoders,
    inputs,
    language_models,
    processors,
    tokenizers,
    vision_encoders,
)
from tests.engine.conformance.case import Case, Wish
from tests.engine.conformance.families import guided, ltx2, videos, wan

_CLIP = 1280  # width of the image encoder that Wan Animate 2 is made for
_CLIP_SIDE = 224


def _wan_animate_2() -> dict[str, Any]:
    transformer = df.WanAnimate2Transformer3DModel(
        text_len=16, in_dim=36, dim=24, ffn_dim=32, freq_dim=32, text_dim=32, num_heads=2,
        num_layers=2,
    )  # fmt: skip
    with torch.compiler.set_stance("force_eager"):  # to compile it takes longer than all else
        transformer.block_masks[2, 1] = transformer.create_mask(2, 1, torch.device("cpu"))
    return wan.parts(
        transformer=transformer,
        image_encoder=vision_encoders.clip("CLIPVisionModel", _CLIP, _CLIP_SIDE, patch=56),
    )


def _animated(wish: Wish) -> dict[str, Any]:
    return {
        "image": inputs.image(wish),
        "driving_video": inputs.video(wish, 5),
        "height": 16,
        "width": 16,
        "segment_frame_length": 5,
        "max_sequence_length": 16,
    }


def _minimax_music_3() -> dict[str, Any]:
    """Numbers of audio tokens are fixed, so the language model knows as many as the real one."""
    width, codebooks = 16, 3
    transformer = df.MiniMaxMusic3Transformer1DModel(
        in_channels=4,
        condition_dim=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        ff_inner_dim=16,
        rotary_dim=4,
        fourier_embedding_dim=16,
    )
    return {
        "tokenizer": tokenizers.words(),
        "language_model": language_models.qwen3(
            "Qwen3ForCausalLM", vocab_size=151675 + 16384, hidden_size=width
        ),
        "rvq_depth_decoder": df.MiniMaxMusic3RVQDepthDecoder(
            hidden_size=width,
            num_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            audio_vocab_size=64,
            num_codebooks=codebooks,
        ),
        "condition_encoder": df.MiniMaxMusic3ConditionEncoder(
            condition_hidden_dim=width, num_condition_layers=codebooks, out_dim=8
        ),
        "transformer": transformer,
        "scheduler": df.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, invert_sigmas=True),
        "vocoder": df.MiniMaxMusic3Vocoder(
            latent_channels=4,
            decoder_input_dim=8,
            decoder_hidden_dim=16,
            upsampling_ratios=(4, 2),
        ),
    }


def _minimax_h3() -> dict[str, Any]:
    """It reads the language model's fiftieth layer, and makes five seconds at least."""
    transformer = df.MiniMaxH3Transformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        hidden_size=16,
        num_layers=2,
        num_refiner_layers=1,
        ffn_dim=16,
        in_channels=4,
        audio_in_channels=4,
        text_dim=language_models.WIDTH,
        freq_dim=16,
        time_embed_hidden_dim=16,
        time_embed_dim=16,
        rope_freq_dim=1,
    )
    return {
        "text_encoder": language_models.qwen3_vl(num_hidden_layers=51),
        "tokenizer": tokenizers.words(),
        "processor": processors.texts_and_images(),
        "vae": autoencoders.minimax_h3(),
        "audio_vae": autoencoders.minimax_h3_audio(),
        "transformer": transformer,
        "scheduler": df.MiniMaxH3Scheduler(shift=12.0),
        "audio_scheduler": df.MiniMaxH3Scheduler(shift=3.0),
    }


#: At the default gamma of a third, the covariance of the noise between stages has no inverse.
_STAGES = {"stages": 2, "stage_range": [0, 0.5, 1], "gamma": 0.3}


def _distilled() -> dict[str, Any]:
    """Its weights come without guidance: with the default of one of its blocks, diffusers encodes
    no negative prompt in a second call, and asks for it."""
    parts = videos.helios(df.HeliosDMDScheduler(**_STAGES))
    return {**parts, "guider": ClassifierFreeGuidance(guidance_scale=1.0)}


def _pyramid(wish: Wish) -> dict[str, Any]:
    return {
        "height": 32,
        "width": 32,
        "num_frames": 5,
        "max_sequence_length": 16,
        "num_latent_frames_per_chunk": 2,
        "pyramid_num_inference_steps_list": [2, wish.steps - 2],
    }


def _echo(wish: Wish) -> dict[str, Any]:
    """It has no scheduler, and as many steps as sigmas before the last."""
    sigmas = [1 - step / wish.steps for step in range(wish.steps + 1)]
    return {
        "height": 8,
        "width": 8,
        "num_frames": 9,
        "max_sequence_length": 16,
        "sigmas": sigmas,
        "image": inputs.image(wish, 8),
    }


CASES = (
    Case("wan", "WanAnimate2ModularPipeline", _wan_animate_2, _animated, heavy=True),
    Case("wan", "WanAnimate2DistilledModularPipeline", _wan_animate_2, _animated),
    Case(
        "audio",
        "MiniMaxMusic3ModularPipeline",
        _minimax_music_3,
        lambda _: {"lyrics": "a dog", "audio_duration": 0.2},
    ),
    Case(
        "ltx2",
        "LTX25ModularPipeline",
        lambda: ltx2.parts(diffusion_decoder=autoencoders.ltx2_diffusion_decoder()),
        lambda _: {"height": 8, "width": 8, "num_frames": 9, "max_sequence_length": 16},
    ),
    Case(
        "hunyuan-video",
        "HunyuanVideo15ModularPipeline",
        lambda: guided.hunyuan_video_15("t2v"),
        lambda _: {"height": 16, "width": 16, "num_frames": 5},
        heavy=True,
    ),
    Case(
        "hunyuan-video",
        "HunyuanVideo15ModularPipeline",
        lambda: guided.hunyuan_video_15("i2v"),
        lambda wish: {"num_frames": 5, "image": inputs.image(wish)},
        variant="from an image",
        heavy=True,
    ),
    Case(
        "wan",
        "Wan22Image2VideoModularPipeline",
        lambda: wan.two_experts(lambda: wan.transformer(36)),
        lambda wish: {**wan.size(wish), "image": inputs.image(wish)},
    ),
    Case(
        "wan",
        "Wan22VaceModularPipeline",
        lambda: wan.two_experts(wan.vace_transformer),
        lambda wish: {**wan.size(wish), "video": inputs.video(wish, 5)},
    ),
    Case(
        "helios",
        "HeliosPyramidModularPipeline",
        lambda: videos.helios(df.HeliosScheduler(**_STAGES)),
        _pyramid,
    ),
    Case(
        "helios",
        "HeliosPyramidDistilledModularPipeline",
        _distilled,
        _pyramid,
    ),
    Case(
        "minimax-h3",
        "MiniMaxH3ModularPipeline",
        _minimax_h3,
        lambda _: {"height": 4, "width": 4, "num_frames": 124},
    ),
    Case("echo", "EchoModularPipeline", ltx2.parts, _echo),
)
