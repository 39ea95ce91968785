"""Kandinsky 2.1, whose texts are read by a multilingual CLIP."""

from __future__ import annotations

from typing import Any

import diffusers as df
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

from tests.engine.conformance import inputs, tokenizers
from tests.engine.conformance.case import Case, Wish
from tests.engine.conformance.families import kandinsky

WIDTH = kandinsky.WIDTH


def parts(in_channels: int = 4) -> dict[str, Any]:
    texts = MCLIPConfig(
        transformerDimSize=WIDTH,
        imageDimSize=WIDTH,
        vocab_size=tokenizers.VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_attention_heads=2,
        num_hidden_layers=1,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    unet = {
        "encoder_hid_dim_type": "text_image_proj",
        "addition_embed_type": "text_image",
        "cross_attention_dim": WIDTH,
    }
    return {
        **kandinsky.parts(in_channels, **unet),
        "scheduler": df.DDIMScheduler(
            clip_sample=False, prediction_type="epsilon", thresholding=False
        ),
        "text_encoder": MultilingualCLIP(texts),
        "tokenizer": tokenizers.words(77, ends=True),
    }


def _combined(in_channels: int = 4) -> dict[str, Any]:
    priors = {f"prior_{name}": part for name, part in kandinsky.prior().items()}
    return {**parts(in_channels), **priors}


def _from_image(wish: Wish) -> dict[str, Any]:
    return {**kandinsky.embedding_inputs(wish), "image": inputs.image(wish), "strength": 0.8}


def _inpaint(wish: Wish) -> dict[str, Any]:
    return {
        **kandinsky.embedding_inputs(wish),
        "image": inputs.image(wish),
        "mask_image": inputs.mask(wish),
    }


CASES = (
    Case("kandinsky", "KandinskyPipeline", parts, kandinsky.embedding_inputs),
    Case("kandinsky", "KandinskyImg2ImgPipeline", parts, _from_image),
    Case("kandinsky", "KandinskyInpaintPipeline", lambda: parts(9), _inpaint),
    Case("kandinsky", "KandinskyCombinedPipeline", _combined, kandinsky.both),
    Case(
        "kandinsky",
        "KandinskyImg2ImgCombinedPipeline",
        _combined,
        lambda wish: {**kandinsky.both(wish), "image": inputs.image(wish), "strength": 0.8},
    ),
    Case(
        "kandinsky",
        "KandinskyInpaintCombinedPipeline",
        lambda: _combined(9),
        lambda wish: {
            **kandinsky.both(wish),
            "image": inputs.image(wish),
            "mask_image": inputs.mask(wish),
        },
    ),
)
