"""HunyuanVideo, Mochi, Allegro and Cosmos."""

from __future__ import annotations

from typing import Any

import diffusers as df

from tests.engine.conformance import (
    autoencoders,
    inputs,
    language_models,
    text_encoders,
    tokenizers,
    vision_encoders,
)
from tests.engine.conformance.case import Case, Wish


def _transformer(in_channels: int, **more: Any) -> Any:
    return df.HunyuanVideoTransformer3DModel(
        in_channels=in_channels,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        guidance_embeds=True,
        text_embed_dim=language_models.WIDTH,
        pooled_projection_dim=32,
        rope_axes_dim=(2, 4, 4),
        **more,
    )


def parts(in_channels: int = 4, **more: Any) -> dict[str, Any]:
    return {
        "transformer": _transformer(in_channels),
        "vae": autoencoders.hunyuan_video(),
        "scheduler": df.FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder": language_models.llama(num_hidden_layers=4),
        "tokenizer": tokenizers.words(ends=True),
        "text_encoder_2": text_encoders.clip(tokens=77),
        "tokenizer_2": tokenizers.clip(77),
        **more,
    }


SEEN = 24  # pixels of a side: as many together as the pipeline's own template has tokens for


def seeing_parts(replaces: bool = True) -> dict[str, Any]:
    """``replaces``: the image takes the place of the first frame, as in the later weights."""
    kind = "token_replace" if replaces else "latent_concat"
    return parts(
        transformer=_transformer(4 if replaces else 9, image_condition_type=kind),
        text_encoder=language_models.llava(SEEN, num_hidden_layers=4),
        image_processor=vision_encoders.clip_processor(SEEN),
    )


def _size(_: Wish) -> dict[str, Any]:
    return {
        "height": 16,
        "width": 16,
        "num_frames": 5,
        "max_sequence_length": 16,
        "prompt_template": {"template": "{}", "crop_start": 0},
    }


def _seen(wish: Wish) -> dict[str, Any]:
    """By the template of the pipeline, whose marks it looks for."""
    size = {name: value for name, value in _size(wish).items() if name != "prompt_template"}
    return {**size, "image": inputs.image(wish)}


def _framepack() -> dict[str, Any]:
    transformer = df.HunyuanVideoFramepackTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=language_models.WIDTH,
        pooled_projection_dim=32,
        rope_axes_dim=(2, 4, 4),
        has_image_proj=True,
        image_proj_dim=32,
        has_clean_x_embedder=True,
    )
    return parts(
        transformer=transformer,
        image_encoder=vision_encoders.siglip(),
        feature_extractor=vision_encoders.siglip_processor(),
    )


def _framepack_call(wish: Wish) -> dict[str, Any]:
    image = inputs.image(wish, 32)
    return {**_size(wish), "height": 32, "width": 32, "image": image, "latent_window_size": 3}


def _mochi() -> dict[str, Any]:
    transformer = df.MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=32,
        time_embed_dim=8,
        max_sequence_length=16,
    )
    return {
        "transformer": transformer,
        "vae": autoencoders.mochi(),
        "scheduler": df.FlowMatchEulerDiscreteScheduler(),
        "text_encoder": text_encoders.t5(),
        "tokenizer": tokenizers.t5(),
    }


def _allegro() -> dict[str, Any]:
    transformer = df.AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
        caption_channels=32,
    )
    return {
        "transformer": transformer,
        "vae": autoencoders.allegro(),
        "scheduler": df.DDIMScheduler(clip_sample=False),
        "text_encoder": text_encoders.t5(),
        "tokenizer": tokenizers.t5(),
    }


class NoGuard:
    """Where Cosmos wants its guard, which needs weights of its own."""

    def to(self, _device: Any) -> None:
        """It is nowhere."""

    def check_text_safety(self, _text: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


def _cosmos(in_channels: int = 4, **more: Any) -> dict[str, Any]:
    transformer = df.CosmosTransformer3DModel(
        in_channels=in_channels,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        mlp_ratio=2,
        text_embed_dim=32,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=False,  # with it, torchvision is needed
    )
    return {
        "transformer": transformer,
        "vae": autoencoders.cosmos(),
        "scheduler": df.EDMEulerScheduler(
            sigma_min=0.002,
            sigma_max=80,
            sigma_data=0.5,
            sigma_schedule="karras",
            prediction_type="epsilon",
            rho=7.0,
            final_sigmas_type="sigma_min",
        ),
        "text_encoder": text_encoders.t5(),
        "tokenizer": tokenizers.t5(),
        "safety_checker": NoGuard(),
        **more,
    }


def _cosmos2(in_channels: int = 16) -> dict[str, Any]:
    transformer = df.CosmosTransformer3DModel(
        in_channels=in_channels,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        mlp_ratio=2,
        text_embed_dim=32,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=False,  # with it, torchvision is needed
        extra_pos_embed_type=None,
    )
    return _cosmos(
        transformer=transformer,
        vae=autoencoders.wan(),
        scheduler=df.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
    )


def _cosmos_size(_: Wish) -> dict[str, Any]:
    """Latents: the pipelines round their images to whole numbers."""
    return {
        "height": 32,
        "width": 32,
        "num_frames": 9,
        "max_sequence_length": 16,
        "output_type": "latent",
    }


CASES = (
    Case("hunyuan-video", "HunyuanVideoPipeline", parts, _size),
    Case(
        "hunyuan-video",
        "HunyuanSkyreelsImageToVideoPipeline",
        lambda: parts(8),
        lambda wish: {**_size(wish), "image": inputs.image(wish)},
    ),
    Case("hunyuan-video", "HunyuanVideoImageToVideoPipeline", seeing_parts, _seen),
    Case(
        "hunyuan-video",
        "HunyuanVideoImageToVideoPipeline",
        lambda: seeing_parts(replaces=False),
        _seen,
        variant="the image beside the noise",
    ),
    Case("hunyuan-video", "HunyuanVideoFramepackPipeline", _framepack, _framepack_call),
    Case(
        "hunyuan-video",
        "HunyuanVideoFramepackPipeline",
        _framepack,
        lambda wish: {**_framepack_call(wish), "sampling_type": "vanilla"},
        variant="vanilla",
    ),
    Case(
        "mochi",
        "MochiPipeline",
        _mochi,
        lambda _: {"height": 16, "width": 16, "num_frames": 7, "max_sequence_length": 16},
    ),
    Case(
        "allegro",
        "AllegroPipeline",
        _allegro,
        lambda _: {
            "height": 16,
            "width": 16,
            "num_frames": 8,
            "max_sequence_length": 16,
            "clean_caption": False,
            "output_type": "latent",
        },
    ),
    Case("cosmos", "CosmosTextToWorldPipeline", _cosmos, _cosmos_size),
    Case(
        "cosmos",
        "CosmosVideoToWorldPipeline",
        lambda: _cosmos(5),
        lambda wish: {**_cosmos_size(wish), "image": inputs.image(wish, 32)},
    ),
    Case(
        "cosmos",
        "Cosmos2TextToImagePipeline",
        _cosmos2,
        lambda wish: {
            name: value for name, value in _cosmos_size(wish).items() if name != "num_frames"
        },
    ),
    Case(
        "cosmos",
        "Cosmos2VideoToWorldPipeline",
        lambda: _cosmos2(17),
        lambda wish: {**_cosmos_size(wish), "image": inputs.image(wish, 32), "num_frames": 5},
    ),
)
