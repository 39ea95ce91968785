"""The tokenizers and text encoders for the words of the image world.

They go on from shipped ones: a word that was known keeps its vector, and the layers stay, so what a
transformer has learned to look for in them stays true. `T5_TOKENS` must be kept at inference, since
Flux masks no padding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final, TypeVar

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
)
from transformers import T5TokenizerFast as T5Tokenizer

from training.image.phrasing import (
    COUNT_WORDS,
    GLUE_WORDS,
    RELATION_WORDS,
    SIZE_WORDS,
    plural,
)
from training.text import UNKNOWN, build_word_tokenizer
from training.words import COLOUR_WORDS, SHAPE_WORDS

CLIP_TOKENS: Final = 48
T5_TOKENS: Final = 32
T5_WIDTH: Final = 128
#: One more than two objects take: three and two relations are more to read.
T5_LAYERS: Final = 3

Clip = TypeVar("Clip", CLIPTextModel, CLIPTextModelWithProjection)


def known_words() -> list[str]:
    """Every word that carries meaning in a prompt, sorted; plurals are words of their own."""
    tables = (COLOUR_WORDS, SHAPE_WORDS, SIZE_WORDS, RELATION_WORDS, COUNT_WORDS)
    phrases = [phrase for table in tables for choices in table.values() for phrase in choices]
    words = {word for phrase in phrases for word in re.findall("[a-z0-9]+", phrase)}
    plurals = {plural(word) for choices in SHAPE_WORDS.values() for word in choices}
    return sorted(words | plurals | set(GLUE_WORDS))


def build_t5_tokenizer() -> T5Tokenizer:
    """A tokenizer of the words in which compositions are asked for."""
    return build_word_tokenizer(known_words(), T5_TOKENS)


def build_clip_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer whose merges build the known words; others fall into pieces."""
    letters = "abcdefghijklmnopqrstuvwxyz1234567890,"
    special = ["<|startoftext|>", "<|endoftext|>", UNKNOWN]
    bpe = Tokenizer(BPE(unk_token=UNKNOWN, end_of_word_suffix="</w>"))
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
        unk_token=UNKNOWN,
        model_max_length=CLIP_TOKENS,
    )


@torch.no_grad()
def grown_t5(old: T5EncoderModel, old_words: T5Tokenizer) -> T5EncoderModel:
    """The encoder with the new words and `T5_LAYERS`: what it lacked adds nothing at first."""
    words = build_t5_tokenizer()
    config = type(old.config).from_dict(old.config.to_dict())
    config.vocab_size, config.num_layers = len(words), T5_LAYERS
    encoder = T5EncoderModel(config)
    state = dict(old.state_dict())
    vectors = _vectors(state["shared.weight"], old_words.get_vocab(), words.get_vocab())
    for name in ("shared.weight", "encoder.embed_tokens.weight"):
        state[name] = vectors
    encoder.load_state_dict(state, strict=False)
    for block in encoder.encoder.block[old.config.num_layers :]:
        nn.init.zeros_(block.layer[0].SelfAttention.o.weight)
        nn.init.zeros_(block.layer[1].DenseReluDense.wo.weight)
    return encoder


@torch.no_grad()
def grown_clip(old: Clip, old_words: CLIPTokenizer) -> Clip:
    """A shipped encoder with the new words, of the same class."""
    words = build_clip_tokenizer()
    config = type(old.config).from_dict(old.config.to_dict())
    config.vocab_size = len(words)
    encoder = type(old)(config)
    state = {
        name: _vectors(value, old_words.get_vocab(), words.get_vocab())
        if name.endswith("token_embedding.weight")
        else value
        for name, value in old.state_dict().items()
    }
    encoder.load_state_dict(state, strict=False)
    return encoder


def _vectors(
    old: torch.Tensor, old_words: Mapping[str, int], words: Mapping[str, int]
) -> torch.Tensor:
    """Word vectors [words, width]: the old ones where there are, else random ones like them."""
    vectors = torch.randn(len(words), old.shape[1]) * old.std() + old.mean(0)
    for word, number in words.items():
        if word in old_words:
            vectors[number] = old[old_words[word]]
    return vectors
