"""Tokenizers of whole words, in the class of T5 pipelines, and the token ids of prompts."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from transformers import T5TokenizerFast as T5Tokenizer

UNKNOWN: Final = "<unk>"


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
