"""Audio: Stable Audio, AudioLDM 2, ACE-Step."""

from __future__ import annotations

from typing import Any

import diffusers as df
import transformers as tf
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel

from tests.engine.conformance import (
    autoencoders,
    inputs,
    language_models,
    text_encoders,
    tokenizers,
)
from tests.engine.conformance.case import Case


def _stable_audio() -> dict[str, Any]:
    transformer = df.StableAudioDiTModel(
        sample_size=8,
        in_channels=4,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        out_channels=4,
        cross_attention_dim=8,
        time_proj_dim=8,
        global_states_input_dim=16,
        cross_attention_input_dim=8,
    )
    return {
        "vae": autoencoders.oobleck(),
        "text_encoder": text_encoders.t5(),
        "tokenizer": tokenizers.t5(),
        "projection_model": StableAudioProjectionModel(
            text_encoder_dim=32, conditioning_dim=8, min_value=0, max_value=32
        ),
        "transformer": transformer,
        "scheduler": df.CosineDPMSolverMultistepScheduler(
            solver_order=2,
            prediction_type="v_prediction",
            sigma_data=1.0,
            sigma_schedule="exponential",
        ),
    }


def _clap() -> Any:
    text = tf.ClapTextConfig(
        vocab_size=tokenizers.VOCABULARY,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        projection_dim=16,
        max_position_embeddings=600,
        pad_token_id=0,
    )
    audio = tf.ClapAudioConfig(
        spec_size=8,
        window_size=4,
        num_mel_bins=8,
        depths=[1, 1],
        num_attention_heads=[1, 1],
        num_hidden_layers=2,
        hidden_size=16,
        projection_dim=16,
        patch_size=2,
        patch_stride=2,
        patch_embeds_hidden_size=8,
        patch_embed_input_channels=4,
    )
    return tf.ClapModel(tf.ClapConfig(text_config=text, audio_config=audio, projection_dim=16))


def _audioldm2() -> dict[str, Any]:
    unet = df.AudioLDM2UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=(8, 16),
        attention_head_dim=2,
    )
    vocoder = tf.SpeechT5HifiGan(
        tf.SpeechT5HifiGanConfig(
            model_in_dim=8,
            sampling_rate=16000,
            upsample_initial_channel=16,
            upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4],
            resblock_kernel_sizes=[3, 7],
            resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
            normalize_before=False,
        )
    )
    language_model = tf.GPT2LMHeadModel(
        tf.GPT2Config(
            vocab_size=tokenizers.VOCABULARY,
            n_embd=16,
            n_head=2,
            n_layer=1,
            n_positions=600,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )
    language_model.config.max_new_tokens = 4
    return {
        "vae": autoencoders.kl(in_channels=1, out_channels=1),
        "text_encoder": _clap(),
        "text_encoder_2": text_encoders.t5(),
        "projection_model": df.AudioLDM2ProjectionModel(
            text_encoder_dim=16, text_encoder_1_dim=32, langauge_model_dim=16
        ),
        "language_model": language_model,
        "tokenizer": tokenizers.roberta(),
        "tokenizer_2": tokenizers.t5(),
        "feature_extractor": tf.ClapFeatureExtractor(sampling_rate=16000),
        "unet": unet,
        "scheduler": df.DDIMScheduler(clip_sample=False),
        "vocoder": vocoder,
    }


def _ace_step() -> dict[str, Any]:
    shape = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 8,
    }
    transformer = df.AceStepTransformer1DModel(
        **shape, num_hidden_layers=2, in_channels=12, audio_acoustic_hidden_dim=4
    )
    encoder = AceStepConditionEncoder(
        **shape,
        text_hidden_dim=language_models.WIDTH,
        timbre_hidden_dim=4,
        num_lyric_encoder_hidden_layers=1,
        num_timbre_encoder_hidden_layers=1,
    )
    return {
        "vae": autoencoders.oobleck(),
        "text_encoder": language_models.qwen3(),
        "tokenizer": tokenizers.words(),
        "transformer": transformer,
        "condition_encoder": encoder,
        "scheduler": df.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    }


def _stable_audio_3() -> dict[str, Any]:
    transformer = df.StableAudio3DiTModel(
        io_channels=4,
        embed_dim=16,
        depth=1,
        num_heads=2,
        cond_token_dim=language_models.WIDTH,
        global_cond_dim=language_models.WIDTH,
        local_add_cond_dim=5,
        timestep_features_dim=16,
        num_memory_tokens=4,
    )
    vae = df.AutoencoderSAME(
        patch_size=8,
        encoder_channels=16,
        encoder_c_mults=(1,),
        encoder_strides=(2,),
        encoder_transformer_depths=(1,),
        latent_dim=4,
        dim_heads=8,
        sampling_rate=400,
    )
    return {
        "vae": vae,
        "text_encoder": language_models.gemma2(),
        "tokenizer": tokenizers.words(24, ends=True),
        "duration_embedder": df.StableAudio3DurationEmbedder(
            output_dim=language_models.WIDTH, fourier_dim=16
        ),
        "transformer": transformer,
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
    }


CASES = (
    Case(
        "audio",
        "AceStepPipeline",
        _ace_step,
        lambda _: {"audio_duration": 0.4, "lyrics": "a dog", "max_text_length": 64},
    ),
    Case(
        "audio",
        "StableAudio3Pipeline",
        _stable_audio_3,
        lambda _: {"duration": 0.4, "output_type": "latent"},
    ),
    Case(
        "audio",
        "StableAudio3AudioToAudioPipeline",
        _stable_audio_3,
        lambda wish: {
            "duration": 0.4,
            "audio": inputs.noise(wish, 1, 2, 160),
            "init_noise_level": 0.8,
            "output_type": "latent",
        },
    ),
    Case(
        "audio",
        "StableAudio3InpaintPipeline",
        _stable_audio_3,
        lambda wish: {
            "duration": 0.4,
            "audio": inputs.noise(wish, 1, 2, 160),
            "mask_start_seconds": 0.1,
            "mask_end_seconds": 0.3,
            "output_type": "latent",
        },
    ),
    Case(
        "audio",
        "StableAudioPipeline",
        _stable_audio,
        lambda _: {"audio_end_in_s": 0.1, "negative_prompt": "a dog"},
    ),
    Case(
        "audio",
        "AudioLDM2Pipeline",
        _audioldm2,
        lambda _: {"audio_length_in_s": 0.01, "max_new_tokens": 4},
    ),
)
