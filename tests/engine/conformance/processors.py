"""What gives vision-language models texts and images together.

The processors of transformers need torchvision, for videos that no pipeline here gives them. This
one does for texts and images what they do, with the same calls.
"""

from __future__ import annotations

from typing import Any

from transformers import BatchFeature, Qwen2VLImageProcessor

from tests.engine.conformance import tokenizers

_IMAGE = "<|image_pad|>"
_OF_TOKENS = {"padding", "padding_side", "max_length", "truncation", "return_tensors"}
_MERGE = 2  # patches on a side that become one token


class TextsAndImages:
    """A Qwen2-VL or Qwen3-VL processor without videos."""

    def __init__(self, tokens: int = 1024, side: str = "right") -> None:
        self.tokenizer = tokenizers.words(tokens, side=side)
        self.image_processor = Qwen2VLImageProcessor(
            patch_size=4,
            merge_size=_MERGE,
            size={"shortest_edge": 8 * 8, "longest_edge": 32 * 32},
        )
        self.image_token = _IMAGE
        self.image_token_id = self.tokenizer.convert_tokens_to_ids(_IMAGE)

    def __call__(self, text: Any = None, images: Any = None, **options: Any) -> BatchFeature:
        """Tokens, with as many marks for each image as it has patches; and the patches."""
        texts = [text] if isinstance(text, str) else list(text)
        for name in ("videos", "do_resize", "images_kwargs", "videos_kwargs"):
            options.pop(name, None)
        seen: dict[str, Any] = {}
        if images is not None:
            seen = dict(self.image_processor(images, return_tensors="pt"))
            marks = [int(grid.prod()) // _MERGE**2 for grid in seen["image_grid_thw"]]
            texts = [_spread(prompt, marks) for prompt in texts]
        tokens = self.tokenizer(texts, **options)
        if seen:
            seen["mm_token_type_ids"] = (tokens["input_ids"] == self.image_token_id).int()
        return BatchFeature({**tokens, **seen})

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        """Text; with ``tokenize``, lists of tokens, or all of them and the images' patches."""
        tokenize, whole = options.pop("tokenize", True), options.pop("return_dict", True)
        written = {name: options.pop(name) for name in _OF_TOKENS & options.keys()}
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, **options)
        if not tokenize:
            return text
        inputs = self(text, _images(messages) or None, **written)
        return inputs if whole else inputs["input_ids"]

    def decode(self, tokens: Any, **options: Any) -> str:
        return self.tokenizer.decode(tokens, **options)

    def create_mm_token_type_ids(self, tokens: list[list[int]]) -> list[list[int]]:
        """1 for the mark of an image, else 0."""
        return [[int(token == self.image_token_id) for token in line] for line in tokens]

    def batch_decode(self, tokens: Any, **options: Any) -> list[str]:
        return self.tokenizer.batch_decode(tokens, **options)


def _images(messages: Any) -> list[Any]:
    """All that a chat shows, or all chats of a batch do."""
    match messages:
        case {"image": image}:
            return [image]
        case {"content": parts} | list(parts) | tuple(parts):
            return [image for part in parts for image in _images(part)]
        case _:
            return []


def _spread(text: str, marks: list[int]) -> str:
    """One mark for an image becomes as many as it has tokens."""
    before, *rest = text.split(_IMAGE)
    filled = before
    for part in rest:
        filled += " ".join([_IMAGE] * marks.pop(0)) + part
    return filled
