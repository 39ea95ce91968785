"""Tiny autoencoders, by kind."""

from __future__ import annotations

from typing import Any

import diffusers as df


def kl(latent_channels: int = 4, *, blocks: int = 2, quant: bool = True, **more: Any) -> Any:
    """Halves width and height ``blocks - 1`` times."""
    return df.AutoencoderKL(
        **{
            "block_out_channels": (8,) * blocks,
            "layers_per_block": 1,
            "latent_channels": latent_channels,
            "norm_num_groups": 4,
            "down_block_types": ("DownEncoderBlock2D",) * blocks,
            "up_block_types": ("UpDecoderBlock2D",) * blocks,
            "sample_size": 16,
            "use_quant_conv": quant,
            "use_post_quant_conv": quant,
            **more,
        }
    )


def kl_flow(latent_channels: int = 4, **more: Any) -> Any:
    """As the models of flow matching have it."""
    return kl(latent_channels, quant=False, shift_factor=0.06, scaling_factor=1.5, **more)


def vq(**more: Any) -> Any:
    return df.VQModel(
        **{
            "block_out_channels": (8, 8),
            "layers_per_block": 1,
            "latent_channels": 4,
            "norm_num_groups": 4,
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "num_vq_embeddings": 16,
            "sample_size": 16,
            **more,
        }
    )


def wan(z_dim: int = 16, **more: Any) -> Any:
    """8 times smaller, 4 times shorter."""
    return df.AutoencoderKLWan(
        **{
            "base_dim": 4,
            "z_dim": z_dim,
            "dim_mult": [1, 1, 1, 1],
            "num_res_blocks": 1,
            "temperal_downsample": [False, True, True],
            **more,
        }
    )


def qwen_image(z_dim: int = 4, halvings: int = 3, channels: int = 3) -> Any:
    """Halves width and height ``halvings`` times. With four ``channels``, images have alpha."""
    return df.AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=z_dim,
        dim_mult=[1] * (halvings + 1),
        num_res_blocks=1,
        temperal_downsample=[False] * (halvings - 2) + [True, True],
        latents_mean=[0.1] * z_dim,
        latents_std=[1.5] * z_dim,
        input_channels=channels,
    )


def qwen_image21(z_dim: int = 4) -> Any:
    """4 times smaller. Images have four channels: it sees through them."""
    return df.AutoencoderKLQwenImage21(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=z_dim,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1] * z_dim,
        latents_std=[1.5] * z_dim,
        scale_factor_spatial=4,
        scale_factor_temporal=2,
    )


def flux2(latent_channels: int = 4) -> Any:
    return df.AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=16,
    )


def dc(latent_channels: int = 4) -> Any:
    """4 times smaller."""
    return df.AutoencoderDC(
        latent_channels=latent_channels,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        scaling_factor=0.4,
    )


def tiny(**more: Any) -> Any:
    return df.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
        **more,
    )


def oobleck(latent_channels: int = 4, channels: int = 2) -> Any:
    """8 audio samples a latent frame."""
    return df.AutoencoderOobleck(
        encoder_hidden_size=2 * latent_channels,  # means and variances
        downsampling_ratios=[2, 4],
        channel_multiples=[1, 2],
        decoder_channels=4,
        decoder_input_channels=latent_channels,
        audio_channels=channels,
        sampling_rate=400,
    )


def cogvideox() -> Any:
    """8 times smaller, 4 times shorter."""
    return df.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        sample_height=16,
        sample_width=16,
    )


def hunyuan_video(latent_channels: int = 4) -> Any:
    """8 times smaller, 4 times shorter."""
    return df.AutoencoderKLHunyuanVideo(
        latent_channels=latent_channels,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )


def ltx(latent_channels: int = 8, **more: Any) -> Any:
    return df.AutoencoderKLLTXVideo(
        **{
            "latent_channels": latent_channels,
            "block_out_channels": (8, 8, 8, 8),
            "decoder_block_out_channels": (8, 8, 8, 8),
            "layers_per_block": (1, 1, 1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1, 1, 1),
            "spatio_temporal_scaling": (True, True, False, False),
            "decoder_spatio_temporal_scaling": (True, True, False, False),
            "patch_size": 1,
            "patch_size_t": 1,
            "encoder_causal": True,
            "decoder_causal": False,
            **more,
        }
    )


def ltx2_video(latent_channels: int = 4) -> Any:
    return df.AutoencoderKLLTX2Video(
        latent_channels=latent_channels,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        down_block_types=("LTX2VideoDownBlock3D",),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_type=("spatiotemporal",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )


def ltx2_diffusion_decoder(latent_channels: int = 4) -> Any:
    """2 times larger and longer."""
    return df.LTX2VideoDiffusionDecoderModel(
        latent_channels=latent_channels,
        patch_size=1,
        decoder_head_dim=8,
        decoder_stage_channels=(16, 8),
        decoder_stage_depths=(1, 1),
        decoder_stage_kernels=((1, 3, 3),),
        decoder_upsample_strides=((2, 2, 2),),
        decoder_upsample_channel_reductions=(2,),
        decoder_stage5_kernel=(3, 3, 3),
        decoder_t_emb_dim=16,
        spatial_compression_ratio=2,
        temporal_compression_ratio=2,
    )


def ltx2_audio() -> Any:
    return df.AutoencoderKLLTX2Audio(
        base_channels=8,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        norm_type="pixel",
        causality_axis="height",
        sample_rate=16000,
        mel_hop_length=160,
        mel_bins=16,
    )


def mochi() -> Any:
    """Its pipeline decodes twelve channels only."""
    return df.AutoencoderKLMochi(
        latent_channels=12,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        latents_mean=[0.1] * 12,
        latents_std=[1.5] * 12,
    )


def allegro() -> Any:
    return df.AutoencoderKLAllegro(
        down_block_types=("AllegroDownBlock3D",) * 4,
        up_block_types=("AllegroUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        sample_size=16,
    )


def cosmos() -> Any:
    return df.AutoencoderKLCosmos(
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=1,
        patch_size=4,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
    )


def magvit(latent_channels: int = 4) -> Any:
    return df.AutoencoderKLMagvit(
        latent_channels=latent_channels,
        down_block_types=("SpatialDownBlock3D", "SpatialTemporalDownBlock3D"),
        up_block_types=("SpatialUpBlock3D", "SpatialTemporalUpBlock3D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        spatial_group_norm=False,
    )


def temporal_decoder() -> Any:
    return df.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
    )


def hunyuan_image(latent_channels: int = 4) -> Any:
    return df.AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=latent_channels,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        sample_size=16,
        scaling_factor=0.5,
    )


def hunyuan_video_15(latent_channels: int = 4) -> Any:
    """2 times smaller and shorter."""
    return df.AutoencoderKLHunyuanVideo15(
        latent_channels=latent_channels,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        temporal_compression_ratio=2,
    )


def minimax_h3(latent_channels: int = 4) -> Any:
    """2 times smaller, 4 times shorter."""
    return df.AutoencoderKLMiniMaxH3(
        latent_channels=latent_channels,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        spatial_downsample_factors=(2, 1, 1),
        temporal_downsample_factors=(1, 2, 2),
        norm_num_groups=4,
        decoder_num_layers=1,
        decoder_num_attention_heads=2,
        decoder_attention_head_dim=16,
        latents_mean=(0.1,) * latent_channels,
        latents_std=(1.5,) * latent_channels,
    )


def minimax_h3_audio(latent_channels: int = 4) -> Any:
    """200 audio samples a latent frame."""
    return df.AutoencoderKLMiniMaxH3Audio(
        encoder_dim=4,
        encoder_rates=(10, 20),
        latent_dim=16,
        latent_channels=latent_channels,
        num_attention_heads=2,
        decoder_dim=8,
        decoder_rates=(20, 10),
        decoder_kernel_sizes=(40, 20),
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3),),
        sampling_rate=8000,
        latents_mean=[0.1] * latent_channels,
        latents_std=[1.5] * latent_channels,
    )
