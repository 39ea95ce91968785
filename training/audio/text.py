"""The tiny T5 that a `StableAudioPipeline` loads, and its tokenizer of the world's words."""

from __future__ import annotations

from typing import Final

import torch
from transformers import T5Config, T5EncoderModel
from transformers import T5TokenizerFast as T5Tokenizer

from training.audio.phrasing import known_words
from training.text import build_word_tokenizer

TOKENS: Final = 24
WIDTH: Final = 128

#: How far a head prefers its direction at the start, as a logit of attention.
_LOOK: Final = 4.0


def build_tokenizer() -> T5Tokenizer:
    """Whole words in lower case; every other word is the unknown token."""
    return build_word_tokenizer(known_words(), TOKENS)


def build_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    config = T5Config(
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
    encoder = T5EncoderModel(config)
    _look_around(encoder)
    return encoder


@torch.no_grad()
def _look_around(encoder: T5EncoderModel) -> None:
    """Begin with a head that looks back, one that looks ahead and one that looks at neighbours.

    The bias of a distance has to reach several units to matter, and an optimiser's small steps need
    thousands of them: until then the order of words, and with it which object is meant, is not
    read. (After 1,500 steps from the usual start, still at chance.)
    """
    bias = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    half = bias.shape[0] // 2  # buckets of keys that stand before come first, 0 is the token itself
    bias[half:, 0] -= _LOOK
    bias[:half, 1] -= _LOOK
    near = torch.tensor([1, 2, half + 1, half + 2])
    bias[near, 2] += _LOOK / 2
