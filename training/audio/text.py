"""The tiny T5 that a `StableAudioPipeline` loads, and its tokenizer of the world's words."""

from __future__ import annotations

from typing import Final

import torch
from transformers import T5Config, T5EncoderModel
from transformers import T5TokenizerFast as T5Tokenizer

from training.audio.phrasing import known_words
from training.text import LOOK, build_word_tokenizer, encoder_settings, look_back_and_ahead

TOKENS: Final = 24


def build_tokenizer() -> T5Tokenizer:
    """Whole words in lower case; every other word is the unknown token."""
    return build_word_tokenizer(known_words(), TOKENS)


@torch.no_grad()
def build_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """Untrained. One head looks back, one ahead and one at neighbours, for the order of words."""
    encoder = T5EncoderModel(T5Config(**encoder_settings(tokenizer)))
    bias = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    look_back_and_ahead(bias)
    half = bias.shape[0] // 2
    near = torch.tensor([1, 2, half + 1, half + 2])
    bias[near, 2] += LOOK / 2
    return encoder
