"""Tiny text encoders, by kind."""

from __future__ import annotations

from typing import Any

import transformers as tf

from tests.engine.conformance.tokenizers import TEXT_TOKENS, VOCABULARY


def clip(kind: str = "CLIPTextModel", width: int = 32, tokens: int = TEXT_TOKENS) -> Any:
    return getattr(tf, kind)(
        tf.CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=width,
            max_position_embeddings=tokens,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def clip_projected(width: int = 32, tokens: int = TEXT_TOKENS) -> Any:
    return clip("CLIPTextModelWithProjection", width, tokens)


def t5(width: int = 32, kind: str = "T5") -> Any:
    """``kind``: T5 or UMT5."""
    return getattr(tf, f"{kind}EncoderModel")(
        getattr(tf, f"{kind}Config")(
            vocab_size=VOCABULARY,
            d_model=width,
            d_kv=8,
            num_heads=4,
            d_ff=32,
            num_layers=1,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def umt5(width: int = 32) -> Any:
    return t5(width, "UMT5")


def bert(width: int = 32) -> Any:
    return tf.BertModel(
        tf.BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=512,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
