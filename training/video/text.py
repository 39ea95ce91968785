"""The tiny UMT5 that a `WanPipeline` loads, and its tokenizer of the world's words."""

from __future__ import annotations

from typing import Final

from transformers import T5TokenizerFast as T5Tokenizer
from transformers import UMT5Config, UMT5EncoderModel

from training.text import build_word_tokenizer, encoder_settings, look_back_and_ahead
from training.video.phrasing import known_words

TOKENS: Final = 32


def build_tokenizer() -> T5Tokenizer:
    """Whole words in lower case; every other word is the unknown token."""
    return build_word_tokenizer(known_words(), TOKENS)


def build_encoder(tokenizer: T5Tokenizer) -> UMT5EncoderModel:
    """Untrained. One head of each layer looks back, one ahead, for the order of words."""
    encoder = UMT5EncoderModel(UMT5Config(**encoder_settings(tokenizer)))
    for block in encoder.encoder.block:
        look_back_and_ahead(block.layer[0].SelfAttention.relative_attention_bias.weight)
    return encoder
