"""Sound: Stable Audio, AudioLDM 2, ACE-Step."""

from __future__ import annotations

from typing import Any

import diffusers as df
import transformers as tf
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel

from tests.engine.conformance import autoencoders, text_encoders, tokenizers
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
        "scheduler": df.EDMDPMSolverMultistepScheduler(
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


CASES = (
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
