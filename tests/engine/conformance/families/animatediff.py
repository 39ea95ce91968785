"""AnimateDiff: videos from the UNet of Stable Diffusion with motion modules."""

from __future__ import annotations

from typing import Any

import diffusers as df

from tests.engine.conformance import autoencoders, inputs, unets, vision_encoders
from tests.engine.conformance.case import Case, Wish
from tests.engine.conformance.families import sd, sdxl


def parts(**more: Any) -> dict[str, Any]:
    return sd.parts(
        motion_adapter=unets.motion_adapter(),
        scheduler=df.DDIMScheduler(beta_schedule="linear", clip_sample=False),
        **more,
    )


def _xl() -> dict[str, Any]:
    return sdxl.parts(
        motion_adapter=unets.motion_adapter(),
        scheduler=df.DDIMScheduler(beta_schedule="linear", clip_sample=False),
    )


def _sparse() -> dict[str, Any]:
    sparse = df.SparseControlNetModel(
        block_out_channels=unets.CHANNELS,
        layers_per_block=1,
        in_channels=4,
        conditioning_channels=3,
        down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=4,
        conditioning_embedding_out_channels=(8, 16),
        motion_num_attention_heads=2,
        use_simplified_condition_embedding=False,
    )
    return parts(controlnet=sparse)


def _size(wish: Wish) -> dict[str, Any]:
    return {**sd.text(wish), "num_frames": 2}


def _from_video(wish: Wish) -> dict[str, Any]:
    return {**sd.text(wish), "video": inputs.video(wish, 2), "strength": 0.8}


def _video_diffusion() -> dict[str, Any]:
    unet = df.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 32),
        layers_per_block=1,
        sample_size=8,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32,
        num_attention_heads=2,
        projection_class_embeddings_input_dim=24,
        addition_time_embed_dim=8,
    )
    return {
        "unet": unet,
        "vae": autoencoders.temporal_decoder(),
        "scheduler": df.EulerDiscreteScheduler(
            prediction_type="v_prediction",
            timestep_type="continuous",
            use_karras_sigmas=True,
            sigma_min=0.002,
            sigma_max=700.0,
        ),
        "image_encoder": vision_encoders.clip(side=224),  # the size is the pipeline's own
        "feature_extractor": vision_encoders.clip_processor(),
    }


CASES = (
    Case("animatediff", "AnimateDiffPipeline", parts, _size),
    Case("animatediff", "AnimateDiffSDXLPipeline", _xl, _size),
    Case(
        "animatediff",
        "AnimateDiffControlNetPipeline",
        parts,
        lambda wish: {**_size(wish), "conditioning_frames": inputs.video(wish, 2)},
    ),
    Case(
        "animatediff",
        "AnimateDiffSparseControlNetPipeline",
        _sparse,
        lambda wish: {
            **_size(wish),
            "conditioning_frames": inputs.video(wish, 1),
            "controlnet_frame_indices": [0],
        },
    ),
    Case("animatediff", "AnimateDiffVideoToVideoPipeline", parts, _from_video),
    Case(
        "animatediff",
        "AnimateDiffVideoToVideoControlNetPipeline",
        parts,
        lambda wish: {**_from_video(wish), "conditioning_frames": inputs.video(wish, 2)},
    ),
    Case(
        "animatediff",
        "AnimateDiffPAGPipeline",
        lambda: parts(pag_applied_layers=["mid"]),
        _size,
    ),
    Case(
        "stable-video",
        "StableVideoDiffusionPipeline",
        _video_diffusion,
        lambda wish: {
            **sd.text(wish),
            "image": inputs.image(wish),
            "num_frames": 2,
            "min_guidance_scale": 1.0,
            "max_guidance_scale": 2.5,
            "decode_chunk_size": 2,
        },
    ),
)
