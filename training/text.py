"""The tiny tokenizers and text encoders, in the classes that a `FluxPipeline` loads.

Both tokenizers know the words in which scenes are asked for; every other word becomes the unknown
token (T5) or a few letters (CLIP). `T5_TOKENS` is trained at and must be kept at inference:
Flux masks no padding, so another length is another model.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from typing import Final

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel
from transformers import T5TokenizerFast as T5Tokenizer

from training.phrasing import COLOUR_WORDS, RELATION_WORDS, SHAPE_WORDS, SIZE_WORDS

T5_TOKENS: Final = 24
CLIP_TOKENS: Final = 48
T5_WIDTH: Final = 128
VIDEO_WIDTH: Final = 64

_UNKNOWN: Final = "<unk>"

#: How far a head prefers its direction at the start, as a logit of attention.
_LOOK: Final = 4.0

_GLUE_WORDS: Final = (
    "a", "an", "the", "of", "on", "in", "is", "that", "which", "with", "against", "front",
    "background", "backdrop", "colored", "coloured", "color", "colour",
)  # fmt: skip


def known_words() -> list[str]:
    """Every word that carries meaning in a prompt, sorted; plurals are words of their own."""
    tables = (COLOUR_WORDS, SHAPE_WORDS, SIZE_WORDS, RELATION_WORDS)
    phrases = [phrase for table in tables for choices in table.values() for phrase in choices]
    words = {word for phrase in phrases for word in re.findall("[a-z]+", phrase)}
    plurals = {f"{word}s" for choices in SHAPE_WORDS.values() for word in choices} | {"boxes"}
    return sorted(words | plurals | set(_GLUE_WORDS))


def build_t5_tokenizer() -> T5Tokenizer:
    """A tokenizer of the words in which scenes are asked for."""
    return build_word_tokenizer(known_words(), T5_TOKENS)


def build_word_tokenizer(words: Sequence[str], length: int) -> T5Tokenizer:
    """A unigram tokenizer of whole words, in lower case; prompts are cut at ``length`` tokens."""
    special = [("<pad>", 0.0), ("</s>", 0.0), (_UNKNOWN, 0.0)]
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


def build_clip_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer whose merges build the known words; others fall into pieces."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    special = ["<|startoftext|>", "<|endoftext|>", _UNKNOWN]
    bpe = Tokenizer(BPE(unk_token=_UNKNOWN, end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(
        vocab_size=5000,
        min_frequency=1,
        special_tokens=[*special, *letters, *(f"{letter}</w>" for letter in letters)],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(known_words(), trainer)
    model = json.loads(bpe.to_str())["model"]
    return CLIPTokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        unk_token=_UNKNOWN,
        model_max_length=CLIP_TOKENS,
    )


def token_ids(tokenizer: object, prompts: list[str], length: int) -> Tensor:
    """The prompts as a pipeline tokenizes them: int16 [B, length]."""
    options = {"padding": "max_length", "max_length": length, "truncation": True}
    ids = tokenizer(prompts, return_tensors="pt", **options).input_ids  # type: ignore[operator]
    return ids.to(torch.int16)


def build_t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=T5_WIDTH,
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


def build_clip_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=VIDEO_WIDTH,
        projection_dim=VIDEO_WIDTH,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=CLIP_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)
