"""Kandinsky 2.2 and 3, their priors, and both at once."""

from __future__ import annotations

from typing import Any

import diffusers as df

from tests.engine.conformance import (
    autoencoders,
    inputs,
    text_encoders,
    tokenizers,
    unets,
    vision_encoders,
)
from tests.engine.conformance.case import Case, Wish

WIDTH = 32


def _unet(in_channels: int, **more: Any) -> Any:
    return unets.sd(
        in_channels,
        **{
            "out_channels": 8,
            "addition_embed_type": "image",
            "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "encoder_hid_dim": WIDTH,
            "encoder_hid_dim_type": "image_proj",
            "cross_attention_dim": 16,
            "resnet_time_scale_shift": "scale_shift",
            **more,
        },
    )


def _movq() -> Any:
    return autoencoders.vq(
        norm_type="spatial",
        vq_embed_dim=4,
        block_out_channels=(32, 32),
        norm_num_groups=32,
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    )


def prior() -> dict[str, Any]:
    prior = df.PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        embedding_dim=WIDTH,
        num_embeddings=tokenizers.TEXT_TOKENS,
        num_layers=1,
    )
    return {
        "prior": prior,
        "image_encoder": vision_encoders.clip(width=WIDTH),
        "text_encoder": text_encoders.clip_projected(WIDTH),
        "tokenizer": tokenizers.clip(),
        "scheduler": df.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=10.0
        ),
        "image_processor": vision_encoders.clip_processor(),
    }


def parts(in_channels: int = 4, **more: Any) -> dict[str, Any]:
    return {
        "unet": _unet(in_channels, **more),
        "scheduler": df.DDIMScheduler(clip_sample=False),
        "movq": _movq(),
    }


def _hinted() -> dict[str, Any]:
    return parts(8, addition_embed_type="image_hint")


def _combined(in_channels: int = 4) -> dict[str, Any]:
    priors = {f"prior_{name}": part for name, part in prior().items()}
    return {**parts(in_channels), **priors}


def embedding_inputs(wish: Wish) -> dict[str, Any]:
    return {
        "image_embeds": inputs.noise(wish, 1, WIDTH),
        "negative_image_embeds": inputs.noise(wish, 1, WIDTH) * 0.5,
        "height": 16,
        "width": 16,
    }


def _from_image(wish: Wish) -> dict[str, Any]:
    return {**embedding_inputs(wish), "image": inputs.image(wish), "strength": 0.8}


def _hint(wish: Wish) -> dict[str, Any]:
    return {"hint": inputs.image_tensor(wish, 64)}


def _inpaint(wish: Wish) -> dict[str, Any]:
    return {
        **embedding_inputs(wish),
        "image": inputs.image(wish),
        "mask_image": inputs.mask(wish),
    }


def both(wish: Wish) -> dict[str, Any]:
    return {"height": 16, "width": 16, "prior_num_inference_steps": wish.steps}


def _three() -> dict[str, Any]:
    unet = df.Kandinsky3UNet(
        in_channels=4,
        time_embedding_dim=8,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(8, 16),
        cross_attention_dim=8,
        encoder_hid_dim=32,
    )
    return {
        "unet": unet,
        "scheduler": df.DDIMScheduler(clip_sample=False),
        "movq": _movq(),
        "text_encoder": text_encoders.t5(),
        "tokenizer": tokenizers.t5(),
    }


CASES = (
    Case("kandinsky", "KandinskyV22Pipeline", parts, embedding_inputs),
    Case("kandinsky", "KandinskyV22Img2ImgPipeline", parts, _from_image),
    Case("kandinsky", "KandinskyV22InpaintPipeline", lambda: parts(9), _inpaint),
    Case(
        "kandinsky",
        "KandinskyV22ControlnetPipeline",
        _hinted,
        lambda wish: {**embedding_inputs(wish), **_hint(wish)},
    ),
    Case(
        "kandinsky",
        "KandinskyV22ControlnetImg2ImgPipeline",
        _hinted,
        lambda wish: {**_from_image(wish), **_hint(wish)},
    ),
    Case("kandinsky", "KandinskyV22PriorPipeline", prior, lambda _: {}),
    Case(
        "kandinsky",
        "KandinskyV22PriorEmb2EmbPipeline",
        prior,
        lambda wish: {"image": inputs.image(wish), "strength": 0.8},
    ),
    Case("kandinsky", "KandinskyPriorPipeline", prior, lambda _: {}),
    Case("kandinsky", "KandinskyV22CombinedPipeline", _combined, both),
    Case(
        "kandinsky",
        "KandinskyV22Img2ImgCombinedPipeline",
        _combined,
        lambda wish: {**both(wish), "image": inputs.image(wish), "strength": 0.8},
    ),
    Case(
        "kandinsky",
        "KandinskyV22InpaintCombinedPipeline",
        lambda: _combined(9),
        lambda wish: {
            **both(wish),
            "image": inputs.image(wish),
            "mask_image": inputs.mask(wish),
        },
    ),
    Case("kandinsky3", "Kandinsky3Pipeline", _three, lambda _: {"height": 16, "width": 16}),
    Case(
        "kandinsky3",
        "Kandinsky3Img2ImgPipeline",
        _three,
        lambda wish: {"image": inputs.image(wish), "strength": 0.8},
    ),
)
