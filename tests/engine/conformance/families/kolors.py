"""Kolors: SDXL's UNet beside the text encoder of a ChatGLM."""

from __future__ import annotations

import tempfile
import warnings
from functools import cache
from typing import Any

import sentencepiece

from tests.engine.conformance import unets, vision_encoders
from tests.engine.conformance.case import WISHES, Case, Wish
from tests.engine.conformance.families import sd, sdxl

_WIDTH = 32


def _text_encoder() -> Any:
    with warnings.catch_warnings():  # of `torch.jit.script`, which the module uses
        warnings.simplefilter("ignore", DeprecationWarning)
        from diffusers.pipelines.kolors.text_encoder import (  # noqa: PLC0415
            ChatGLMConfig,
            ChatGLMModel,
        )
    config = ChatGLMConfig(
        num_layers=2,
        hidden_size=_WIDTH,
        ffn_hidden_size=37,
        kv_channels=8,
        num_attention_heads=4,
        padded_vocab_size=128,
        seq_length=64,
        add_qkv_bias=True,
        multi_query_attention=True,
        multi_query_group_num=2,
        original_rope=True,  # as the published one says, which diffusers has no default for
    )
    return ChatGLMModel(config).eval()


@cache
def _vocabulary() -> tempfile.TemporaryDirectory[str]:
    """Folder of the tokenizer's file, which it reads again when it is saved."""
    folder = tempfile.TemporaryDirectory()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([wish.prompt for wish in WISHES] * 20),
        model_prefix=f"{folder.name}/tokenizer",
        vocab_size=64,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return folder


def _tokenizer() -> Any:
    from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer  # noqa: PLC0415

    return ChatGLMTokenizer(f"{_vocabulary().name}/tokenizer.model")


def _parts(**more: Any) -> dict[str, Any]:
    return {
        **sdxl.parts(),
        "text_encoder": _text_encoder(),
        "tokenizer": _tokenizer(),
        "unet": unets.sdxl(encoder_hid_dim=_WIDTH, encoder_hid_dim_type="text_proj"),
        "image_encoder": vision_encoders.clip(),
        "feature_extractor": vision_encoders.clip_processor(),
        "force_zeros_for_empty_prompt": False,
        **more,
    }


def _pag() -> dict[str, Any]:
    return _parts(pag_applied_layers=["mid"])


def _text(wish: Wish) -> dict[str, Any]:
    return {**sd.text(wish), "max_sequence_length": 16}


def _image(wish: Wish) -> dict[str, Any]:
    return {**_text(wish), **sd.from_image(wish)}


CASES = (
    Case("kolors", "KolorsPipeline", _parts, _text),
    Case("kolors", "KolorsImg2ImgPipeline", _parts, _image),
    Case("kolors", "KolorsPAGPipeline", _pag, _text),
)
