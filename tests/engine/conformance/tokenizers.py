"""Tokenizers that know the words of the wishes and spell all others; none is downloaded."""

from __future__ import annotations

import string
from typing import Any

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    T5TokenizerFast,
)

from tests.engine.conformance.case import WISHES

WORDS = sorted({word for wish in WISHES for word in wish.prompt.split()})
TEXT_TOKENS = 24  # the longest text of CLIP and T5 here

IMAGE = "<image>"
_SPECIAL = [
    "<pad>", "<eos>", "<bos>", "<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>",
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
_TURNS = [IMAGE, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
_CHAT = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}<|vision_start|> <|image_pad|> <|vision_end|>{% endif %}{% endfor %}{% endif %}"
    " <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def clip(tokens: int = TEXT_TOKENS) -> CLIPTokenizer:
    letters = string.ascii_lowercase
    names = ["<|startoftext|>", "<|endoftext|>", "<unk>", *letters, *(f"{x}</w>" for x in letters)]
    vocab = {name: number for number, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocab, merges=[], unk_token="<unk>", model_max_length=tokens)


def t5(tokens: int = TEXT_TOKENS) -> T5TokenizerFast:
    words = sorted({*WORDS, *string.ascii_lowercase})
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -1.0) for word in words)]
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=tokens)


def words(tokens: int = 512, *, side: str = "right", ends: bool = False, lead: int = 0) -> Any:
    """For the language models: a token for a word, a mark or a special token.

    Pipelines cut the beginning of their templates off by a count of tokens, which is about that of
    words, not of letters. ``ends``: begins with <bos> and ends with <eos>.
    ``lead``: words before a chat, where more would be cut off than the template has.
    """
    letters, marks = string.ascii_letters, string.punctuation
    names = list(dict.fromkeys([*_SPECIAL, "\n", *WORDS, *letters, *marks, *_TURNS]))
    vocab = {name: number for number, name in enumerate(names)}
    model = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    model.pre_tokenizer = Split(Regex(r"\n|\w+|[^\w\s]"), "removed", invert=True)
    if ends:
        model.post_processor = TemplateProcessing(
            single="<bos> $A <eos>",
            pair="<bos> $A $B <eos>",
            special_tokens=[("<bos>", vocab["<bos>"]), ("<eos>", vocab["<eos>"])],
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        additional_special_tokens=[*_SPECIAL[4:], *_TURNS],
        model_max_length=tokens,
        padding_side=side,
    )
    tokenizer.chat_template = "a " * lead + _CHAT
    return tokenizer


VOCABULARY = 256  # above the number of any token of any tokenizer here


def roberta(tokens: int = TEXT_TOKENS) -> RobertaTokenizer:
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *string.ascii_letters, "Ġ"]
    vocab = {name: number for number, name in enumerate(names)}
    return RobertaTokenizer(vocab=vocab, merges=[], model_max_length=tokens)
