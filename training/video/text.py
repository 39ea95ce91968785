"""The tiny UMT5 that a `WanPipeline` loads, and its tokenizer of the world's words."""

from __future__ import annotations

from typing import Final

import torch
from transformers import T5TokenizerFast as T5Tokenizer
from transformers import UMT5Config, UMT5EncoderModel

from training.text import build_word_tokenizer
from training.video.phrasing import known_words

TOKENS: Final = 32
WIDTH: Final = 128

#: How far a head prefers its direction at the start, as a logit of attention.
_LOOK: Final = 4.0


def build_tokenizer() -> T5Tokenizer:
    """Whole words in lower case; every other word is the unknown token."""
    return build_word_tokenizer(known_words(), TOKENS)


def build_encoder(tokenizer: T5Tokenizer) -> UMT5EncoderModel:
    """Untrained, two layers. One head of each looks back, one ahead, for the order of words."""
    config = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=32,
        num_heads=4,
        d_ff=256,
        num_layers=2,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=32,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    encoder = UMT5EncoderModel(config)
    with torch.no_grad():
        for block in encoder.encoder.block:
            bias = block.layer[0].SelfAttention.relative_attention_bias.weight
            half = bias.shape[0] // 2  # keys that stand before come first, 0 is the token itself
            bias[half:, 0] -= _LOOK
            bias[:half, 1] -= _LOOK
    return encoder
