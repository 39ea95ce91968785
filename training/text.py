"""Tokenizers of whole words, in the class of T5 pipelines, and the token ids of prompts."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers import T5TokenizerFast as T5Tokenizer

UNKNOWN: Final = "<unk>"
WIDTH: Final = 128

#: How far a head prefers its direction at the start, as a logit of attention.
LOOK: Final = 4.0


def build_word_tokenizer(words: Sequence[str], length: int) -> T5Tokenizer:
    """A unigram tokenizer of whole words, in lower case; prompts are cut at ``length`` tokens."""
    special = [("<pad>", 0.0), ("</s>", 0.0), (UNKNOWN, 0.0)]
    vocab = special + [(f"▁{word}", -1.0) for word in words]
    return T5Tokenizer(
        vocab=vocab,
        extra_ids=0,
        model_max_length=length,
        _spm_precompiled_charsmap=lower_case_charsmap(),
    )


def lower_case_charsmap() -> bytes:
    """A SentencePiece character map that lowers A to Z.

    T5's tokenizer class takes no other normalizer from disk. The format is a length, a double-array
    trie of 32-bit units (see Darts-clone) and the replacements, each ended by a zero byte.
    """
    upper = range(ord("A"), ord("Z") + 1)
    units = [0] * 1024
    units[0] = 256 << 10  # The root's children stand at 256 ^ letter.
    for i, letter in enumerate(upper):
        child = 256 ^ letter
        leaf = 512 + i
        # label | has a leaf | offset to the leaf, which stands at child ^ offset
        units[child] = letter | 1 << 8 | (child ^ leaf) << 10
        units[leaf] = 1 << 31 | 2 * i
    trie = struct.pack(f"<{len(units)}I", *units)
    replacements = b"".join(bytes([letter + 32, 0]) for letter in upper)
    return struct.pack("<I", len(trie)) + trie + replacements


def token_ids(tokenizer: object, prompts: list[str], length: int) -> Tensor:
    """The prompts as a pipeline tokenizes them: int16 [B, length]."""
    options = {"padding": "max_length", "max_length": length, "truncation": True}
    ids = tokenizer(prompts, return_tensors="pt", **options).input_ids  # type: ignore[operator]
    return ids.to(torch.int16)


def encoder_settings(tokenizer: T5Tokenizer) -> dict[str, Any]:
    """Configuration of the tiny T5 or UMT5 that reads the tokens: two layers of `WIDTH`."""
    return {
        "vocab_size": len(tokenizer),
        "d_model": WIDTH,
        "d_kv": 32,
        "num_heads": 4,
        "d_ff": 256,
        "num_layers": 2,
        "relative_attention_num_buckets": 16,
        "relative_attention_max_distance": 32,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
    }


@torch.no_grad()
def look_back_and_ahead(bias: Tensor) -> None:
    """Have the first head of a layer look back and the second ahead, for the order of words.

    ``bias``: of relative distances, [buckets, heads]. It has to reach several units to matter, and
    an optimiser's small steps need thousands of them: until then the order of words, and with it
    which object is meant, is not read. (After 1,500 steps from the usual start, still at chance.)
    """
    half = bias.shape[0] // 2  # buckets of keys that stand before come first, 0 is the token itself
    bias[half:, 0] -= LOOK
    bias[:half, 1] -= LOOK
